"""Messages about bodies that are not JSON: the usual mistakes, and how to correct them."""

import re
from typing import NamedTuple

EXAMPLE_BODY = '{"user": "Cylance, Inc."}'
_WINDOW = 256
"""Bytes around the fault that are searched for its cause."""
_MAX_LINES = 1_000
"""A fault in a later line is not searched for its cause: finding a line takes time for each line before it."""
_POSITION = re.compile(r" at line (\d+) column (\d+)$")
_FORM = re.compile(rb"[A-Za-z0-9_.%+-]{1,64}=[^{}\[\]\"]*")
_LEADING_ZERO = re.compile(rb"(?:^|[^0-9.eE+-])-?0$")
_LITERALS = {
    b"None": "null",
    b"True": "true",
    b"False": "false",
    b"undefined": "null",
}
_CONTROLS = {
    b"\t": ("a tab", r"\t"),
    b"\n": ("a line break", r"\n"),
    b"\r": ("a carriage return", r"\r"),
    b"\b": ("a backspace", r"\b"),
    b"\f": ("a form feed", r"\f"),
    b"\0": ("a null character", r"\u0000"),
    b"\x1b": ("an escape character", r"\u001b"),
}
"""Control characters: their names, and how JSON escapes them."""
_SMART_QUOTES = ("\u201c".encode(), "\u201d".encode(), "\u2018".encode(), "\u2019".encode())


class _Place(NamedTuple):
    """The body before and after the fault, and the name of the parser for the fault."""

    before: bytes
    after: bytes
    error: str


def explain(body: bytes, error: str) -> str:
    """Return why a body is not JSON, and a remedy, from the message of the parser."""
    position = _POSITION.search(error)
    line, column = (int(position[1]), int(position[2])) if position else (1, 1)
    if position is not None and line > _MAX_LINES:
        return f"{_POSITION.sub('', error)} ({position[0].strip()})"
    index = _index(body, error, line, column)
    place = _Place(body[max(0, index - _WINDOW) : index], body[index : index + _WINDOW], error)
    reason = _of_whole(body) or _of_place(place) or _POSITION.sub("", error)
    line_start = body.rfind(b"\n", 0, index) + 1
    line = body.count(b"\n", 0, index) + 1
    column = len(body[line_start:index].decode("utf-8", "replace")) + 1
    return f"{reason} (at line {line} column {column})"


def _of_whole(body: bytes) -> str | None:  # noqa: PLR0911  # a table
    """Name a mistake that concerns the body as a whole."""
    start = body[:_WINDOW].lstrip()
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start[:4]:
        return "it is not encoded in UTF-8; save it as UTF-8 without a byte order mark"
    if start.startswith(b"\xef\xbb\xbf"):
        return "it begins with a byte order mark; save it as UTF-8 without one"
    if start.startswith(b"'"):
        return f'it is in single quotes; in Windows cmd, write -d "{_escaped(EXAMPLE_BODY)}"'
    if start.startswith(b"<"):
        return f"it looks like XML or HTML; send JSON, such as {EXAMPLE_BODY}"
    if start.startswith(b"@"):
        return "it is the name of a file; to send its content with curl, write --data-binary @FILE"
    if _FORM.match(start):
        return f"it is form data (name=value); send JSON, such as {EXAMPLE_BODY}"
    return None


def _escaped(text: str) -> str:
    return text.replace('"', '\\"')


def _index(body: bytes, error: str, line: int, column: int) -> int:
    """Return the index of the byte that is wrong. The parser names one that follows it, or none after a line break."""
    start = 0
    for _ in range(line - 1):
        start = body.find(b"\n", start) + 1
    index = start + column - 1
    if error.startswith("EOF"):
        index = len(body.rstrip()) - 1
    elif error.startswith("trailing comma"):
        index = body.rfind(b",", 0, index)
    elif error.startswith("invalid escape"):
        index = body.rfind(b"\\", 0, index)
    return max(index, 0)


def _of_place(place: _Place) -> str | None:  # noqa: PLR0911  # a table
    """Return the mistake at the place of the fault."""
    before, after, error = place
    if error.startswith("EOF"):
        return "it ends too early; close each string, list and object"
    if error.startswith("trailing comma") or (after.startswith(b",") and before.rstrip()[-1:] in {b",", b"[", b"{"}):
        return "remove the comma that no value follows"
    if error.startswith("trailing characters"):
        return "something follows the first JSON value; send one object"
    if after.startswith(b"'"):
        return f"names and strings must be in double quotes, not in single quotes, as in {EXAMPLE_BODY}"
    if after.startswith(_SMART_QUOTES):
        return f'names and strings must be in straight double quotes ("), not in curly ones, as in {EXAMPLE_BODY}'
    if after.startswith((b"//", b"/*", b"#")):
        return "JSON has no comments; remove them"
    if error.startswith("key must be"):
        return f"names must be in double quotes, as in {EXAMPLE_BODY}"
    if error.startswith("expected value"):
        return _value(after)
    return _control(after) if error.startswith("control character") else _syntax(place)


def _value(after: bytes) -> str | None:
    """Name the mistake in a value."""
    for literal, correct in _LITERALS.items():
        if after.startswith(literal):
            return f"write {correct}, not {literal.decode()}"
    for number in ("NaN", "Infinity"):
        if after.startswith(number.encode()):
            return f"JSON has no {number}; send a number, or leave the member out"
    if re.match(rb"[A-Za-z]", after):
        return f"strings must be in double quotes, as in {EXAMPLE_BODY}"
    if re.match(rb"\.[0-9]", after):
        return "write 0 before the decimal point, as in 0.5"
    return "remove the + before the number" if re.match(rb"\+[0-9.]", after) else None


def _control(after: bytes) -> str:
    """Name the control character in a string, and its escape sequence."""
    if after.startswith(b"\r\n"):
        return r"a string contains a line break; write \n"
    escape = rf"\u{after[0]:04x}"
    name, escape = _CONTROLS.get(after[:1], (f"the control character U+{after[0]:04X}", escape))
    return f"a string contains {name}; write {escape}"


def _syntax(place: _Place) -> str | None:
    """Return a mistake that the message of the parser implies."""
    before, after, error = place
    if error.startswith("invalid escape"):
        return r"write a backslash in a string as \\"
    if error.startswith("invalid unicode"):
        return "it is not encoded in UTF-8; send it as UTF-8"
    if error.startswith("expected ident"):
        return "write true, false and null in full, in lower case"
    if error.startswith("invalid number"):
        if _LEADING_ZERO.search(before) and after[:1].isdigit():
            return "remove the leading zero of the number"
        at_point = before.endswith(b".")
        return "a number needs digits on both sides of its decimal point" if at_point else "the number lacks a digit"
    return {"expected `:`": "a colon is missing after a name", "expected `,`": "a comma is missing"}.get(error[:12])


def explain_type(value: object, example: str) -> str:
    """Return that a JSON value is not an object, and its type."""
    rule = f"must be a JSON object, such as {example}"
    if isinstance(value, str) and value[:_WINDOW].lstrip().startswith("{"):
        return f"{rule}, not a string that contains one; encode it only once"
    return f"{rule}, not {_kind(value)}"


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case list():
            return "a list"
        case _:
            return "a number"
