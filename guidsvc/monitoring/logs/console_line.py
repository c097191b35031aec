"""The access line for people: one request on one line of a terminal."""

import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from unicodedata import east_asian_width

MAX_COLUMNS, MIN_COLUMNS = 120, 60
"""Maximum width of a line; and the width below which the width of the terminal no longer counts."""
MIN_PATH = 18
"""Minimum width of a path, even if the other parts leave less: `/guid/9094E4...DDF`."""
METHOD_CHARACTERS = 10
"""Maximum length of a method: clients can invent longer ones."""
MIN_CODE = 12
"""Minimum width of the code of a problem next to the request id."""
MAX_VALUE = 32
"""Width of a value in the widest line: that of a GUID."""
ID_CHARACTERS = 8
"""Length of the end of a request id, where the whole one does not fit. Ids of one process differ at their end."""
_GUID = re.compile(r"(?P<no>No )?GUID (?P<guid>[0-9A-F]{32})")
_GAP = "..."
_INDENT = " " * 9
"""The start of each further line of the terminal: as wide as the time."""
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_TAIL_SHARE = 4
"""A shortened text keeps this fraction of its width for its end, as a divisor."""
_CODES = {2: "32", 3: "36", 4: "33", 5: "31"}
"""Terminal colors by class of status: green, cyan, yellow, red."""


def is_colored() -> bool:
    """Return whether standard error shows colors: on a terminal, unless NO_COLOR is set (https://no-color.org)."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def columns() -> int:
    """Return the width of a line: that of the terminal, within bounds; the maximum if there is none."""
    if not sys.stderr.isatty():
        return MAX_COLUMNS
    try:
        width = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        width = shutil.get_terminal_size((MAX_COLUMNS, 1)).columns
    return max(MIN_COLUMNS, min(width or MAX_COLUMNS, MAX_COLUMNS))


def console_line(  # noqa: PLR0913  # the parts of a line
    start: str, path: str, result: tuple[int, float], failure: Mapping[str, str] | None, extras: Mapping[str, object],
    *, width: int, colored: bool = False,
) -> str:  # fmt: skip
    """Return `16:22:48 PUT /guid/9094E4...DDF 201 0.5ms`, and the reason of a failure, in at most `width` columns.

    `start` is the time and the method, `result` the status and the milliseconds. A path that leaves too little room is
    shortened in the middle, a reason at its end. A failure has its request id, which the client got with the error: at
    least its end, so that the reason has room. Each of the other `extras` is appended if it fits.

    The texts must be printable.
    """
    status, ms = result
    end, reason, request_id = f" {status:d} {ms:g}ms", "", ""
    room = width - _width(start) - 1 - len(end)
    if failure is not None:
        reason = _reason(failure, path)
        left = room - min(MIN_PATH, _width(path))
        request_id = _request_id(extras.get("request_id"), left - _width(reason), left - MIN_CODE)
        extras = {name: value for name, value in extras.items() if name != "request_id"}
    path = _shortened(path, max(MIN_PATH, room - _width(reason) - len(request_id)))
    line = f"{start} {path}{end}"
    line += _cut(reason, width - _width(line) - len(request_id)) + request_id
    line += "".join(_fitting(extras, width - _width(line)))
    if not colored:
        return line
    return line.replace(end, f" \x1b[{_CODES.get(status // 100, '0')}m{status:d}\x1b[0m {ms:g}ms", 1)


def _request_id(value: object, room: int, room_of_end: int) -> str:
    """Return the request id if it fits into `room`, else its end if that fits into `room_of_end`."""
    text = str(value or "")
    whole, end = f" request_id={text}", f" id={text if len(text) <= ID_CHARACTERS else _GAP + text[-ID_CHARACTERS:]}"
    if not text or len(end) > room_of_end:
        return ""
    return whole if len(whole) <= room else end


def _reason(failure: Mapping[str, str], path: str) -> str:
    """Return ` invalid-request /expire: must be ...` of the members of a failure, without the GUID in the path."""
    place = next((f" {failure[name]}" for name in ("pointer", "parameter", "header") if failure.get(name)), "")
    in_path = path.replace("-", "").upper()
    reason = _GUID.sub(lambda match: _short_name(match, in_path), failure.get("reason", ""))
    return f" {failure['code']}{place}{f': {reason}' if reason else ''}"


def _short_name(match: re.Match[str], in_path: str) -> str:
    """Return `this GUID` for the GUID that the path names; other GUIDs as they are."""
    if match["guid"] not in in_path:
        return match[0]
    if match["no"]:
        return "No such GUID"
    return "this GUID" if match.start() else "This GUID"


def _fitting(extras: Mapping[str, object], room: int) -> Iterator[str]:
    for name, value in extras.items():
        text = f" {name}={value}"
        if value not in {None, ""} and _width(text) <= room:
            room -= _width(text)
            yield text


def _shortened(text: str, room: int) -> str:
    """Return a text, shortened in the middle if it is wider than `room`."""
    if _width(text) <= room:
        return text
    tail = (room - len(_GAP)) // _TAIL_SHARE
    ending = text[-tail:]
    while _width(ending) > tail:
        ending = ending[1:]
    return f"{_cut(text, room - _width(ending))}{ending}"


def _cut(text: str, room: int) -> str:
    """Return a text, cut at its end if it is wider than `room`."""
    if _width(text) <= room:
        return text
    text = text[: max(0, room - len(_GAP))]
    while _width(text) > max(0, room - len(_GAP)):
        text = text[:-1]
    return f"{text}{_GAP}"[: max(0, room)]


def _width(text: str) -> int:
    """Return the number of columns of a text: some characters take two."""
    return len(text) if text.isascii() else sum(1 + (east_asian_width(each) in {"W", "F"}) for each in text)


def wrapped_line(head: str, fields: Mapping[str, object], *, width: int) -> str:
    """Return a line of a log with its fields, on as many lines of the terminal as they need, indented under the text.

    The fields keep their order. `head` may be colored; a head that is too wide for one line is shown without colors.
    """
    lines = [head] if visible_width(head) <= width else _pieces(_COLOR.sub("", head), width, indent=_INDENT)
    for name, value in fields.items():
        shown = value if isinstance(value, str) and value and " " not in value else repr(value)
        for piece in _pieces(f"{name}={shown}", width - len(_INDENT)):
            if visible_width(lines[-1]) + 1 + _width(piece) <= width:
                lines[-1] += f" {piece}"
            else:
                lines.append(f"{_INDENT}{piece}")
    return "\n".join(lines)


def _pieces(text: str, room: int, *, indent: str = "") -> list[str]:
    """Return a text in pieces that are at most `room` columns wide."""
    if _width(text) <= room:
        return [text]
    characters = room if text.isascii() else room // 2
    return textwrap.wrap(text, characters, subsequent_indent=indent, break_on_hyphens=False)


def visible_width(text: str) -> int:
    """Return the number of columns of a text that may be colored."""
    return _width(_COLOR.sub("", text))


def event_line(event: str, fields: Mapping[str, str], *, width: int) -> str:
    """Return `16:22:48 audit update caller=key:a guid=9094E4...DDF`: the time, the event, and each field that fits.

    Long values are shortened in the middle; of a request id, the end remains.
    """
    line = _cut(f"{time.strftime('%H:%M:%S')} {event}", width)
    longest = MAX_VALUE if width == MAX_COLUMNS else MIN_PATH
    for name, text in fields.items():
        room = width - _width(line)
        field = _request_id(text, room, room) if name == "request_id" else f" {name}={_shortened(text, longest)}"
        line += field if _width(field) <= room else ""
    return line
