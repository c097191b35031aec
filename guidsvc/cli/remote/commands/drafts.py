"""The files of `edit`: the text, and the record that it began with, so that a conflict can be merged.

Both are in a new folder that only the user can enter: the folder of temporary files is shared with other users.
"""

import json
import os
import shlex
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import IO, Any, NamedTuple

from pydantic_core import from_json

from guidsvc.cli.remote.commands.inputs import MAX_INPUT_BYTES
from guidsvc.cli.remote.documents import json_text
from guidsvc.cli.remote.values import parse_object
from guidsvc.domain.durations import rfc_3339
from guidsvc.program import runnable
from guidsvc_client import FullRecord, Record

_FOLDER = "guidsvc-edit-"
"""The beginning of the name of a folder with a draft."""
_SUFFIX = ".base"
_MAX_BASE_BYTES = 8 * MAX_INPUT_BYTES
"""Indentation and escapes may multiply the bytes of a record."""
_ABSENT = object()


class Base(NamedTuple):
    """The record that a text began with: its GUID, its version, and its text."""

    guid: str
    version: int
    text: str


class Draft(NamedTuple):
    """The file with the text, and the record that it began with; a file that the user wrote has none."""

    path: Path
    base: Base | None

    def discard(self) -> None:
        """Remove the files, unless the user wrote the text."""
        if self.base is not None:
            self.path.unlink(missing_ok=True)
            _base_path(self.path).unlink(missing_ok=True)
            self._remove_folder()

    def _remove_folder(self) -> None:
        if self.path.parent.name.startswith(_FOLDER):
            with suppress(OSError):  # an editor has left a file there
                self.path.parent.rmdir()

    def hint(self, guid: str) -> str:
        """Return the place of the text, and the command to continue with it."""
        words = f"edit {guid} --file {shlex.quote(str(self.path))}"
        return f"Your text is in {self.path}; to go on: {runnable(words)}"

    def rebase(self, text: str, current: FullRecord) -> list[str]:
        """Merge the changes in a text into the current record; return the members that both sides have changed.

        Raise OSError, before anything is written, if other users may read or write the record that the text began with.
        """
        if self.base is None:
            return []
        base, mine, theirs = (parse_object(each) for each in (self.base.text, text, record_text(current)))
        both: list[str] = []
        merged = _merge(base, {**base, "metadata": {}, **mine}, theirs, both)
        with _opened_base(self.path, "r+") as file:
            self.path.write_text(_object_text(merged), encoding="utf-8")
            file.truncate()
            json.dump(_base_of(current)._asdict(), file)
        return both


def new_draft(guid: str, record: FullRecord) -> Draft:
    """Write the record of a GUID to a new file in a new folder, which only the user can read."""
    path, base = Path(mkdtemp(prefix=_FOLDER)) / f"{guid}.json", _base_of(record)
    with open(path, "x", encoding="utf-8", opener=_create_private) as file:
        file.write(base.text)
    with open(_base_path(path), "x", encoding="utf-8", opener=_create_private) as file:
        json.dump(base._asdict(), file)
    return Draft(path, base)


def open_draft(path: Path, guid: str) -> Draft:
    """Return the draft in a file.

    Raise ValueError or OSError if it is one for another record, is damaged, or other users may read or write the record
    that it began with.
    """
    try:
        with _opened_base(path, "rb") as file:
            content = file.read(_MAX_BASE_BYTES)
    except FileNotFoundError:
        return Draft(path, None)
    try:
        base = _parse_base(content)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{_base_path(path)} is damaged; remove it to write the whole text") from error
    if base.guid != guid:
        raise ValueError(f"it is a text for {base.guid}; name that GUID, or another file")
    return Draft(path, base)


def _parse_base(content: bytes) -> Base:
    """Return the record that a text began with. Raise ValueError or TypeError if `edit` did not write this."""
    members: dict[str, Any] = from_json(content)
    base = Base(**members)
    if type(members["guid"]) is not str or type(members["version"]) is not int:  # a bool is no version
        raise ValueError("the GUID or the version is not of its type")
    parse_object(base.text)
    return base


def record_text(record: Record) -> str:
    """Return the members of a record that can be edited, as JSON."""
    return _object_text({"user": record.user, "expire": rfc_3339(record.expire), "metadata": record.metadata})


def _object_text(members: Mapping[str, Any]) -> str:
    return f"{json_text(members, indent=2)}\n"


def _base_of(record: FullRecord) -> Base:
    return Base(record.guid, record.version, record_text(record))


def _base_path(path: Path) -> Path:
    return path.with_name(f"{path.name}{_SUFFIX}")


def _opened_base(path: Path, mode: str) -> IO[Any]:
    """Open the record that a text began with. Raise PermissionError if it is not the user's alone."""
    base = _base_path(path)
    file: IO[Any] = open(base, mode, opener=_open_unfollowed)  # noqa: SIM115  # the caller closes it
    if not _is_private(file.fileno()):
        file.close()
        remedy = "run chmod 600 if it is yours, or move your text to a folder of your own"
        raise PermissionError(f"other users may read or change {base}; {remedy}")
    return file


def _is_private(descriptor: int) -> bool:
    """Return whether an open file is a regular one of this user, which nobody else may read or write."""
    found = os.fstat(descriptor)
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077


def _create_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _open_unfollowed(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe does not hold it up


def _merge(
    base: Mapping[str, Any], mine: Mapping[str, Any], theirs: Mapping[str, Any], both: list[str], place: str = ""
) -> dict[str, Any]:
    """Return their members with my changes. Members that both sides changed to different values go to `both`."""
    merged: dict[str, Any] = {}
    for name in [*mine, *(name for name in theirs if name not in mine)]:
        values = [each.get(name, _ABSENT) for each in (base, mine, theirs)]
        if not place and name == "metadata" and all(isinstance(each, dict) for each in values):
            merged[name] = _merge(values[0], values[1], values[2], both, "metadata.")
            continue
        began, my_value, their_value = values
        if my_value not in (began, their_value) and their_value != began:
            both.append(f"{place}{name}")
        value = their_value if my_value == began else my_value
        if value is not _ABSENT:
            merged[name] = value
    return merged
