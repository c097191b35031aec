"""`edit`: change a record in an editor. Nothing that was typed is lost."""

import difflib
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from guidsvc.cli import output
from guidsvc.cli.exit_codes import FAILED
from guidsvc.cli.remote.command import RemoteCommand, fail
from guidsvc.cli.remote.commands.drafts import Draft, new_draft, open_draft, record_text
from guidsvc.cli.remote.commands.inputs import MAX_INPUT_BYTES, guid_argument
from guidsvc.cli.remote.commands.records import print_record
from guidsvc.cli.remote.curl import BASE, KEY_HEADER, quoted_url
from guidsvc.cli.remote.failures import exit_code, report
from guidsvc.cli.remote.remote import Remote
from guidsvc.cli.remote.values import parse_object, with_times
from guidsvc.system_errors import plain_reason
from guidsvc_client import FullRecord, GuidsvcError, OutcomeUnknown, PreconditionFailed, Record, RecordWithheld

_MEMBERS = ("user", "expire", "metadata")
_NO_VERSION = "the response has no strong ETag; use guidsvc edit"
"""The message of the curl command: without a value, curl would leave `If-Match` out, and overwrite other changes."""


@click.command(cls=RemoteCommand, is_write=True, examples=["edit 9094E4C980C74043A4B586B420E69DDF"])
@guid_argument
@click.option("--file", "text_file", metavar="FILE", help="begin with the text in this file, from an earlier edit")
@click.pass_obj
def edit(remote: Remote, /, guid: str, text_file: str | None) -> None:
    """Edit a record as JSON in $VISUAL or $EDITOR. If it was changed meanwhile, nothing is written."""
    if remote.is_curl:
        output.write(f"{_script(remote, guid)}\n")
        return
    _require_editor()
    record = remote.client.get(guid, full=True)  # its version is known, whatever a proxy does to entity tags
    draft = new_draft(guid, record) if text_file is None else _opened(Path(text_file), guid)
    _open_editor(draft, guid)
    text = _read(draft, guid)
    if draft.base is not None and text == draft.base.text:
        draft.discard()
        remote.note(f"{guid} is not changed")
    else:
        _write(remote, record, text, draft)


def _opened(path: Path, guid: str) -> Draft:
    try:
        return open_draft(path, guid)
    except (OSError, ValueError) as error:
        fail(f"{path} cannot be used: {plain_reason(error)}", FAILED)


def _require_editor() -> None:
    """Raise UsageError if no editor is set, and the default editor would wait for keys that nobody can press."""
    is_named = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not is_named and not (output.is_terminal(sys.stdin) and output.is_terminal(sys.stdout)):
        raise click.UsageError("an editor needs a terminal; set VISUAL or EDITOR to one that does not, or use `patch`")


def _open_editor(draft: Draft, guid: str) -> None:
    try:
        click.edit(filename=str(draft.path))
    except click.ClickException as error:
        hint = "" if _discard_unchanged(draft) else f" {draft.hint(guid)}"
        fail(f"{error.message}; set VISUAL or EDITOR.{hint}", FAILED)


def _discard_unchanged(draft: Draft) -> bool:
    """Remove a draft in which nothing was typed; return whether it was one."""
    if draft.base is None:
        return False
    base = draft.base.text.encode()
    with suppress(OSError):
        if _beginning(draft.path, len(base)) == base:
            draft.discard()
            return True
    return False


def _beginning(path: Path, size_bytes: int) -> bytes:
    """Return the bytes of a file, and at most one more than this number, which shows that it is longer."""
    with path.open("rb") as file:
        return file.read(size_bytes + 1)


def _read(draft: Draft, guid: str) -> str:
    """Return the text in a file."""
    try:
        content = _beginning(draft.path, MAX_INPUT_BYTES)
        if len(content) > MAX_INPUT_BYTES:
            raise ValueError(f"it has more than {MAX_INPUT_BYTES} bytes")
        return content.decode()
    except (OSError, ValueError) as error:
        fail(f"the text cannot be read: {plain_reason(error)}. {draft.hint(guid)}", FAILED)


def _members(text: str, draft: Draft, guid: str) -> dict[str, Any]:
    """Return the members in a text, in the form in which they are written."""
    try:
        members = with_times(parse_object(text), is_put=False)
        if unknown := members.keys() - set(_MEMBERS):
            raise ValueError(f"has {', '.join(sorted(unknown))}; the members are {', '.join(_MEMBERS)}")
    except ValueError as error:
        fail(f"the text {error}. {draft.hint(guid)}", FAILED)
    return members if draft.base is None else {"metadata": {}, **members}


def _write(remote: Remote, record: FullRecord, text: str, draft: Draft) -> None:
    """Write the text if the record still has the version that it began with. Otherwise say so, and keep the file.

    A text with another expiry makes a record valid that has expired meanwhile. Any other text must not.
    """
    members = _members(text, draft, record.guid)
    if members.get("expire", record.expire) == record.expire:
        members["revive"] = False
    version = record.version if draft.base is None else draft.base.version
    try:
        written = remote.client.put(record.guid, if_match=version, **members)
    except RecordWithheld:  # the write is done
        draft.discard()
        raise
    except GuidsvcError as error:
        if found := _found(error, members):
            draft.discard()
            print_record(remote, found)
            return
        conflict = _conflict(remote, record, text, draft) if isinstance(error, PreconditionFailed) else ""
        reason = conflict or report(error, remote.target, is_write=True)
        fail(f"{reason}\n{draft.hint(record.guid)}", exit_code(error, is_write=True))
    else:
        draft.discard()
        print_record(remote, written)


def _found(error: GuidsvcError, members: Mapping[str, Any]) -> Record | None:
    """Return the record if a repetition found it as the text says: it does not matter who wrote that."""
    record = error.record if isinstance(error, OutcomeUnknown) else None
    written = {name: value for name, value in members.items() if name in _MEMBERS}
    has_all = record is not None and all(getattr(record, name) == value for name, value in written.items())
    return record if has_all else None


def _conflict(remote: Remote, record: FullRecord, text: str, draft: Draft) -> str:
    """Merge the text with the current record; return the changes of others."""
    try:
        current = remote.client.get(record.guid, full=True)
        both = draft.rebase(text, current)
    except (GuidsvcError, OSError):
        return ""  # the response to the write says enough, and the text stays unchanged
    old = record_text(record) if draft.base is None else draft.base.text
    before, after = (each.splitlines() for each in (old, record_text(current)))
    changes = "\n".join(difflib.unified_diff(before, after, "as you read it", "as it is now", lineterm="", n=1))
    merged = "" if draft.base is None else "\nYour changes are merged with these in the text: check it first."
    choice = f" It has your values of {', '.join(both)}, which both sides changed." if both else ""
    return f"somebody else has changed the record:\n{changes}{merged}{choice}"


def _script(remote: Remote, guid: str) -> str:
    """Return a line for a shell that does the same: read, edit, and write to the version that was read."""
    url = quoted_url(f"{remote.target.url}/guid/{guid}")
    curl = f"{BASE} {KEY_HEADER}" if remote.target.key else BASE
    find_version = rf"""version=$(sed -n 's/^[Ee][Tt]ag: *\("[0-9]*"\).*/\1/p' {guid}.headers)"""
    return (
        f"{curl} --dump-header {guid}.headers --output {guid}.json {url} && ${{EDITOR:-vi}} {guid}.json && "
        f'{find_version} && {curl} --request PUT --header "If-Match: ${{version:?{_NO_VERSION}}}" '
        f"--data-binary @{guid}.json {url}"
    )
