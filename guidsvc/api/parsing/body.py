"""Reading a body: from bytes to a model, or to the list of all that is wrong with it.

The only border where a fault that pydantic finds is a client's mistake.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json, to_json

from guidsvc.domain.record import MAX_METADATA_BYTES
from guidsvc.errors import InvalidField, InvalidRequest
from guidsvc.http.constants import CURL_DEFAULT, NDJSON, media_type
from guidsvc.http.errors import UnsupportedMediaType

MAX_BYTES = 64 * 1024
MAX_MEMBERS = 64
"""So many members no object of ours has; of one that has more it is not told which are wrong."""
MAX_MARKS = MAX_METADATA_BYTES + 2048
"""Quotes, brackets, commas and colons in the body of one record. Compact JSON keeps each of them, so metadata that are
not too large have fewer; what stands beside the metadata needs far fewer than 2,048. More take long to decode."""
MAX_DIGITS = MAX_METADATA_BYTES + 2048
"""Digits of long integers in the body of one record. Their decimal form takes quadratic time."""
MAX_NAMED_BYTES = 4096
"""In a longer body a member that is named twice is not searched for: that takes longer than all else."""
MAX_NAME = 100
"""Characters of a client's own name that an error repeats."""
MAX_BRACKETS = 100_000
"""Of a large document: its objects and lists have two each. Each takes time to find, and memory when it is decoded."""

_WORDS = {
    "extra_forbidden": "is not a member that is known here",
    "dict_type": "must be a JSON object",
    "string_type": "must be a string",
    "missing": "is needed",
}
_SURROGATE = r"holds half of a surrogate pair (\uD800 to \uDFFF), which is no character; send both halves, or neither"
_LIMITS = {
    "recursion limit": "has over 200 levels of objects and lists; send fewer",
    "number out of range": "holds a number with over 4300 digits; send a shorter one, or a string",
    "hex escape": _SURROGATE,
}
"""What the parser says of JSON (RFC 8259) that is beyond a limit (9), or is no text (8.2)."""
_READ_ONLY = "is set by the service and cannot be given; to put records back, read them without view=full"
_MARKS = b'",:[]{}'
_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_LONG_DIGITS = 310
_LONG_INTEGER = re.compile(rb"(?<![0-9.eE])(?<![eE][+-])[0-9]{310,}+")
"""No finite number with a fraction or an exponent has 310 digits before them."""
_LEVEL = 3
"""Of an operation: in a list, in an object."""
_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+([\[\]{}])', re.DOTALL)
"""The next bracket outside of strings. The quantifiers are possessive: a match that fails has read the rest once."""
_Body = TypeVar("_Body", bound=BaseModel)


def check_type(method: str, content_type: str | None, content_encoding: str | None, named: tuple[str, ...]) -> None:
    """Raise UnsupportedMediaType unless this is of a type that is `named`; or curl's default, or no type at all.

    But not for POST: what a page of another site can send without being asked is never read as JSON.
    """
    if content_type in named and content_encoding is None:  # as most are
        return
    if (content_encoding or "identity").strip().lower() != "identity":
        raise UnsupportedMediaType(method, "A body is sent as it is, without a Content-Encoding.", named)
    lenient = method != "POST"
    if lenient and content_type is None:
        return
    given, parameters = media_type(content_type), (content_type or "").lower().split(";")[1:]
    known = given in named or (lenient and given == CURL_DEFAULT)
    if not known or any(_other_charset(parameter) for parameter in parameters if "charset" in parameter):
        detail = f"A body of {method} is {' or '.join(named)}, in UTF-8: send Content-Type: {named[0]}."
        raise UnsupportedMediaType(method, detail, named)


def _other_charset(parameter: str) -> bool:
    name, _, value = parameter.partition("=")
    return name.strip() == "charset" and value.strip().strip('"') not in {"utf-8", "utf8"}


def read(
    method: str,
    headers: Mapping[str, str],
    body: Callable[[], bytes],
    model: type[_Body],
    named: tuple[str, ...],
    guid: str | None,
) -> _Body:
    """Return the model that a request's body holds, for the GUID of its path, if it is of a type that is `named`."""
    check_type(method, headers.get("Content-Type"), headers.get("Content-Encoding"), named)
    return parse(body(), model, {"guid": guid})


def parse(body: bytes, model: type[_Body], context: dict[str, Any]) -> _Body:
    """Return the model that a body holds; InvalidRequest with all that is wrong with it, and where."""
    if fault := _cost_fault(body):
        raise InvalidRequest(fault)
    return validate(decode(body), model, context)


def _cost_fault(body: bytes) -> InvalidField | None:
    """Return what is wrong with the body of one record if it takes long to decode, as no valid one does."""
    if len(body) <= MAX_MARKS:
        return None
    if len(body) - len(body.translate(None, _MARKS)) > MAX_MARKS:
        detail = f"has over {MAX_MARKS} quotes, brackets, commas and colons; send fewer members and items"
        return InvalidField("", detail)
    # At least half of a long run of digits is counted here, in a tenth of the time that the expression takes.
    runs = body.translate(_ZEROS).count(b"0" * _LONG_DIGITS)
    if 2 * _LONG_DIGITS * runs > MAX_DIGITS and sum(map(len, _LONG_INTEGER.findall(body))) > MAX_DIGITS:
        return InvalidField("", f"has integers of over {MAX_DIGITS} digits together; send fewer")
    return None


def decode(body: bytes) -> Any:
    """Return the JSON value that a body is; InvalidRequest if it is none, or one that readers may read differently."""
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(InvalidField("", _json_fault(body, str(error)))) from error
    if not (isinstance(value, dict) and len(value) == body.count(b":")) and _has_twins(body, value):
        if len(body) <= MAX_NAMED_BYTES:
            json.loads(body, object_pairs_hook=_refuse_twins)
        raise InvalidRequest(InvalidField("", "names a member of an object twice"))
    return value


def _has_twins(body: bytes, value: object) -> bool:
    """Whether an object in the body names a member twice: then its value, as JSON, has fewer colons than the body."""
    colons = body.count(b":")
    if isinstance(value, dict) and len(value) + sum(len(v) for v in value.values() if isinstance(v, dict)) == colons:
        return False  # as most bodies with metadata
    if b"\\u003" in body:
        unpaired = body.replace(b"\\\\", b"")  # what follows a backslash now is escaped
        colons += unpaired.count(b"\\u003a") + unpaired.count(b"\\u003A")
    return to_json(value).count(b":") < colons


def _json_fault(body: bytes, found: str) -> str:
    """Say why a body is not decoded: empty, beyond a limit though it is JSON, or not JSON."""
    if not body.strip(b" \t\r\n"):
        return "is empty; send a JSON object"
    return next((f"{reason} ({found})" for sign, reason in _LIMITS.items() if sign in found), f"is not JSON: {found}")


def decode_operations(body: bytes, most: int) -> Any:
    """Return the JSON value that a large document of operations is, as `decode` does; InvalidRequest if there are more.

    Each operation is decoded by itself, so that a thread gives way to the event loop after at most MAX_BYTES: while
    a parser is at work no other thread runs. One that is larger, or too costly, is an InvalidRequest in the list.
    """
    elements = _elements(body, most)
    document = decode(_outline(body, elements))
    operations = document.get("operations") if isinstance(document, dict) else None
    if isinstance(operations, list):
        for index, element in enumerate(operations):
            if isinstance(element, list):
                start, end = elements[element[0]]
                operations[index] = _decode_operation(body[start:end], index)
    return document


def _outline(body: bytes, elements: Sequence[tuple[int, int]]) -> bytes:
    """Return the document with `[number]` in place of each element: the only lists that are left at that level."""
    parts, place = [], 0
    for number, (start, end) in enumerate(elements):
        parts += [body[place:start], b"[%d]" % number]
        place = end
    outline = b"".join([*parts, body[place:]])
    if len(outline) > MAX_BYTES:
        raise InvalidRequest(InvalidField("", f"has over {MAX_BYTES} bytes beside its operations; send those alone"))
    return outline


def _decode_operation(body: bytes, index: int) -> Any:
    if len(body) > MAX_BYTES:
        return InvalidRequest(InvalidField("", f"has {len(body)} bytes; an operation has at most {MAX_BYTES}"))
    if fault := _cost_fault(body):
        return InvalidRequest(fault)
    try:
        return decode(body)
    except InvalidRequest as error:
        raise InvalidRequest(*(fault._replace(pointer=f"/operations/{index}") for fault in error.faults)) from error


def _elements(body: bytes, most: int) -> list[tuple[int, int]]:
    """Return where the objects and lists begin and end that a JSON text holds at the third level."""
    elements: list[tuple[int, int]] = []
    depth = start = place = brackets = 0
    while (found := _BRACKET.match(body, place)) is not None:
        place = found.end()
        brackets += 1
        if brackets > MAX_BRACKETS:
            most_values = MAX_BRACKETS // 2
            raise InvalidRequest(
                InvalidField("", f"has over {most_values} objects and lists: send fewer, or lines, as {NDJSON}")
            )
        depth += 1 if found[1] in b"[{" else -1
        if depth == _LEVEL and found[1] in b"[{":
            start = place - 1
        elif depth == _LEVEL - 1 and found[1] in b"]}":
            elements.append((start, place))
            if len(elements) > most:
                raise InvalidRequest(
                    InvalidField("/operations", f"are more than {most}: send them as lines, as {NDJSON}")
                )
    return elements


def validate(value: object, model: type[_Body], context: dict[str, Any]) -> _Body:
    """Return the model that a JSON value makes; InvalidRequest with all that is wrong with it, and where."""
    if isinstance(value, InvalidRequest):  # an operation that was too large to be decoded
        raise value
    if not isinstance(value, dict):
        raise InvalidRequest(InvalidField("", "must be a JSON object"))
    if len(value) > MAX_MEMBERS:
        raise InvalidRequest(InvalidField("", f"has {len(value)} members, most of which are not known here"))
    try:
        return model.model_validate(value, context=context)
    except ValidationError as error:
        read_only: frozenset[str] = getattr(model, "read_only", frozenset())
        raise InvalidRequest(*(_fault(detail, read_only) for detail in error.errors(include_url=False))) from error


def _refuse_twins(members: list[tuple[str, Any]]) -> None:
    """Refuse an object that names a member twice: readers differ in which one they take (RFC 8259, 4)."""
    seen: set[str] = set()
    for name, _ in members:
        if name in seen:
            raise InvalidRequest(InvalidField("", f"names the member {name[:MAX_NAME]!r} twice"))
        seen.add(name)


def _fault(error: ErrorDetails, read_only: Collection[str]) -> InvalidField:
    words = _WORDS | ({"extra_forbidden": _READ_ONLY} if error["loc"] and error["loc"][-1] in read_only else {})
    return InvalidField(pointer(*error["loc"]), message(error, words))


def pointer(*steps: str | int) -> str:
    """Return the JSON Pointer (RFC 6901) of these steps, as far as it is worth telling."""
    return "".join(f"/{str(step)[:MAX_NAME].replace('~', '~0').replace('/', '~1')}" for step in steps)


def message(error: ErrorDetails, words: Mapping[str, str]) -> str:
    """Say what pydantic found wrong: in our words for this type of error, where there are some, else in its own."""
    return words.get(error["type"], error["msg"][0].lower() + error["msg"][1:])
