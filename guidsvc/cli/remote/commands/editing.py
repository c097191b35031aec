"""`edit`: change a record in an editor. Nothing that was typed is lost."""

import difflib
import os
import shlex
from pathlib import Path
from tempfile import mkstemp
from typing import Any, NamedTuple

import click

from guidsvc.cli import output
from guidsvc.cli.remote.command import RemoteCommand, fail
from guidsvc.cli.remote.commands.inputs import MAX_INPUT_BYTES, guid_argument
from guidsvc.cli.remote.commands.records import print_record
from guidsvc.cli.remote.curl import BASE, KEY_HEADER, quoted_url
from guidsvc.cli.remote.documents import json_text, moment
from guidsvc.cli.remote.failures import FAILED, exit_code, report
from guidsvc.cli.remote.remote import Remote
from guidsvc.cli.remote.values import parse_object, with_times
from guidsvc.program import runnable
from guidsvc_client import GuidsvcError, PreconditionFailed, Record, RecordWithheld

_MEMBERS = ("user", "expire", "metadata")


@click.command(cls=RemoteCommand, is_write=True, examples=["edit 9094E4C980C74043A4B586B420E69DDF"])
@guid_argument
@click.option(
    "--file", "text_file", metavar="FILE", help="begin with the text in this file, which an earlier edit left"
)
@click.pass_obj
def edit(remote: Remote, /, guid: str, text_file: str | None) -> None:
    """Edit a record as JSON in $VISUAL or $EDITOR. If it was changed meanwhile, nothing is written."""
    if remote.is_curl:
        output.write(f"{_script(remote, guid)}\n")
        return
    record = remote.client.get(guid)
    draft = _new_draft(record) if text_file is None else _Draft(Path(text_file), None)
    _open_editor(draft, guid)
    text = _read(draft, guid)
    if text == draft.original:
        draft.discard()
        remote.note(f"{guid} is not changed")
    else:
        _write(remote, record, _members(text, draft, guid), draft)


class _Draft(NamedTuple):
    """The file with the text. `original` is the text that a new one began with; a file of the user has none."""

    path: Path
    original: str | None

    def discard(self) -> None:
        """Remove the file, unless the user has named it."""
        if self.original is not None:
            self.path.unlink(missing_ok=True)

    def hint(self, guid: str) -> str:
        """Return where the text is, and how to go on with it."""
        words = f"edit {guid} --file {shlex.quote(str(self.path))}"
        return f"Your text is in {self.path}; to go on: {runnable(words)}"


def _new_draft(record: Record) -> _Draft:
    """Write a record to a new file that only the user can read."""
    descriptor, name = mkstemp(prefix=f"{record.guid}-", suffix=".json")
    text = _text(record)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return _Draft(Path(name), text)


def _text(record: Record) -> str:
    document = {"user": record.user, "expire": moment(record.expire), "metadata": record.metadata}
    return f"{json_text(document, indent=2)}\n"


def _open_editor(draft: _Draft, guid: str) -> None:
    try:
        click.edit(filename=str(draft.path))
    except click.ClickException as error:
        fail(f"{error.message}; set VISUAL or EDITOR. {draft.hint(guid)}", FAILED)


def _read(draft: _Draft, guid: str) -> str:
    """Return the text in a file."""
    try:
        with draft.path.open("rb") as file:
            content = file.read(MAX_INPUT_BYTES + 1)
        if len(content) > MAX_INPUT_BYTES:
            raise ValueError(f"it has more than {MAX_INPUT_BYTES} bytes")
        return content.decode()
    except (OSError, ValueError) as error:
        fail(f"the text cannot be read: {error}. {draft.hint(guid)}", FAILED)


def _members(text: str, draft: _Draft, guid: str) -> dict[str, Any]:
    """Return the members in a text, as they are to be written."""
    try:
        members = with_times(parse_object(text), is_put=False)
        if unknown := members.keys() - set(_MEMBERS):
            raise ValueError(f"has {', '.join(sorted(unknown))}; the members are {', '.join(_MEMBERS)}")
    except ValueError as error:
        fail(f"the text {error}. {draft.hint(guid)}", FAILED)
    return {"metadata": {}, **members}


def _write(remote: Remote, record: Record, members: dict[str, Any], draft: _Draft) -> None:
    """Write the members to the version that was read. Otherwise say so, and leave the text where it is."""
    try:
        written = remote.client.put(record.guid, if_match=record.version or "*", **members)
    except RecordWithheld:  # the write is done
        draft.discard()
        raise
    except GuidsvcError as error:
        changes = _changes(record, error) if isinstance(error, PreconditionFailed) else ""
        told = f"somebody else has changed the record:\n{changes}" if changes else ""
        text = told or report(error, remote.target, is_write=True)
        fail(f"{text}\n{draft.hint(record.guid)}", exit_code(error, is_write=True))
    else:
        draft.discard()
        print_record(remote, written)


def _changes(record: Record, error: PreconditionFailed) -> str:
    """Return what others have changed since the record was read."""
    if error.record is None:
        return ""
    old, new = (_text(each).splitlines() for each in (record, error.record))
    return "\n".join(difflib.unified_diff(old, new, "as you read it", "as it is now", lineterm="", n=1))


def _script(remote: Remote, guid: str) -> str:
    """Return a line for a shell that does the same: read, edit, and write to the version that was read."""
    url = quoted_url(f"{remote.target.url}/guid/{guid}")
    curl = f"{BASE} {KEY_HEADER}" if remote.target.key else BASE
    version = rf"""$(sed -n 's/^[Ee][Tt]ag: *\("[0-9]*"\).*/\1/p' {guid}.headers)"""
    return (
        f"{curl} --dump-header {guid}.headers --output {guid}.json {url} && ${{EDITOR:-vi}} {guid}.json && "
        f'{curl} --request PUT --header "If-Match: {version}" --data-binary @{guid}.json {url}'
    )
