"""Parsing and validation of request bodies: from bytes to a model, or to InvalidRequest with every fault.

Only here, a pydantic ValidationError is a mistake of the client. Elsewhere it is an internal error.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from guidsvc.api.contract.problems import is_quotable, may_be_secret
from guidsvc.api.parsing import json_errors
from guidsvc.api.parsing.validation_errors import Source, body_faults
from guidsvc.domain.commands import BatchOperation
from guidsvc.domain.record import EXAMPLE_GUID, MAX_METADATA_BYTES
from guidsvc.errors import InvalidField, InvalidRequest
from guidsvc.http.constants import CURL_DEFAULT, NDJSON, media_type
from guidsvc.http.errors import UnsupportedMediaType

MAX_BYTES = 64 * 1024
"""Maximum size of the body of one record, of an operation in a batch, and of a line."""
SMALL_BYTES = 4 * 1024
"""Bodies up to this size are decoded at once. Larger ones take turns, as decoding stops the event loop."""
MAX_MEMBERS = 64
"""Maximum number of members of an object, far above that of any model. The error does not list more unknown members."""
MAX_MARKS = MAX_METADATA_BYTES + 2048
"""Maximum number of quotes, brackets, commas and colons in the body of one record. More take long to decode. Valid
metadata stays below, as compact JSON keeps these characters; the other members need far fewer than 2,048."""
MAX_DIGITS = MAX_METADATA_BYTES + 2048
"""Maximum number of digits in long integers in the body of one record: converting them takes quadratic time."""
MAX_NAMED_BYTES = 4096
"""In a larger body, the error about a repeated member does not name it: the search takes longer than all the rest."""
MAX_BRACKETS = 100_000
"""Maximum number of brackets in a large document, two for each object or list. Each takes time to find and memory."""

MAX_TYPE_CHARACTERS = 56
"""Maximum length of a Content-Type that an error repeats, in characters, escaped."""

_SURROGATE = r"contains half of a surrogate pair (\uD800 to \uDFFF), which is not a character; send both halves or none"
_LIMITS = {
    "recursion limit": "has over 200 levels of objects and lists; send fewer",
    "number out of range": "contains a number with over 4300 digits; send a shorter one, or a string",
    "hex escape": _SURROGATE,
}
"""Parser errors about JSON that exceeds a limit (RFC 8259, 9) or contains invalid text (8.2), and what clients read."""
_MARKS = b'",:[]{}'
_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_LONG_DIGITS = 310
_LONG_INTEGER = re.compile(rb"(?<![0-9.eE])(?<![eE][+-])[0-9]{310,}+")
"""A long integer. No finite number with a fraction or an exponent has 310 digits before it."""
_LEVEL = 3
"""The nesting level of an operation, in a list in an object."""
_QUOTE = ord('"')
_IN_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_OUTSIDE = re.compile(
    rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+'
    if sys.version_info >= (3, 11, 5)
    else rb'(?>(?:[^"\[\]{}]+|"(?>(?:[^"\\]+|\\.)*)")*)',
    re.DOTALL,
)
"""What lies before the next bracket outside of strings. A possessive quantifier never reads anything again.

Before Python 3.11.5 (gh-106052), a possessive group that fails keeps what it has read: a string that ends after this
part. An atomic group does not, but takes four times as long.
"""
_Body = TypeVar("_Body", bound=BaseModel)


def check_type(
    method: str, content_type: str | None, content_encoding: str | None, media_types: tuple[str, ...]
) -> None:
    """Raise UnsupportedMediaType unless the body has one of the `media_types` and no Content-Encoding.

    Except for POST, the type that `curl -d` sends and a missing type are accepted too. Pages of other sites can send
    such a POST without permission (CORS), so it must not be read as JSON.
    """
    if content_type in media_types and content_encoding is None:  # the common case
        return
    if (content_encoding or "identity").strip().lower() != "identity":
        raise UnsupportedMediaType(
            method, "A body with a Content-Encoding is not accepted: send it without compression.", media_types
        )
    is_lenient = method != "POST"
    if is_lenient and content_type is None:
        return
    body_type, parameters = media_type(content_type), (content_type or "").lower().split(";")[1:]
    is_accepted = body_type in media_types or (is_lenient and body_type == CURL_DEFAULT)
    if not is_accepted or any(_other_charset(parameter) for parameter in parameters if "charset" in parameter):
        raise UnsupportedMediaType(method, type_fault(method, content_type, media_types), media_types)


def type_fault(method: str, content_type: str | None, media_types: tuple[str, ...]) -> str:
    """Return the media types that a method accepts, and the one that the client sent instead."""
    what, wanted = "is missing", f"Content-Type: {media_types[0]}"
    if content_type:
        shown = ascii(content_type)[1:-1][:MAX_TYPE_CHARACTERS]
        what = "is a different one (not shown: it may be a secret)" if may_be_secret(content_type) else f"is {shown}"
        if content_type == CURL_DEFAULT:
            what += ", which curl -d sends by default"
    return (
        f"{method} requires a body of {' or '.join(media_types)} in UTF-8, but the Content-Type {what}; "
        f"send {wanted}{' instead' if content_type else ''} (curl: -H '{wanted}')."
    )


def _other_charset(parameter: str) -> bool:
    name, _, value = parameter.partition("=")
    return name.strip() == "charset" and value.strip().strip('"') not in {"utf-8", "utf8"}


def read(
    method: str,
    headers: Mapping[str, str],
    body: Callable[[], bytes],
    model: type[_Body],
    media_types: tuple[str, ...],
    guid: str | None,
) -> _Body:
    """Parse the body of a request into the model. Its type must be one of `media_types`; `guid` is that of the path."""
    check_type(method, headers.get("Content-Type"), headers.get("Content-Encoding"), media_types)
    return parse(body(), model, {"guid": guid})


def parse(body: bytes, model: type[_Body], context: dict[str, Any]) -> _Body:
    """Parse a body into the model; InvalidRequest with every fault and its place."""
    if fault := _cost_fault(body):
        raise InvalidRequest(fault)
    if not body or body.isspace():
        raise InvalidRequest(InvalidField("", f"is empty; send a JSON object, such as {_example(model)}"))
    return validate(decode(body), model, context)


def _cost_fault(body: bytes) -> InvalidField | None:
    """Return a fault if the body of one record would take long to decode. A valid body never does."""
    if len(body) <= MAX_MARKS:
        return None
    if len(body) - len(body.translate(None, _MARKS)) > MAX_MARKS:
        detail = f"has over {MAX_MARKS} quotes, brackets, commas and colons; send fewer members and items"
        return InvalidField("", detail)
    # This counts at least half of each long run of digits, in a tenth of the time of the regular expression.
    runs = body.translate(_ZEROS).count(b"0" * _LONG_DIGITS)
    if 2 * _LONG_DIGITS * runs > MAX_DIGITS and sum(map(len, _LONG_INTEGER.findall(body))) > MAX_DIGITS:
        return InvalidField("", f"has long integers with over {MAX_DIGITS} digits in total; send fewer")
    return None


def decode(body: bytes) -> Any:
    """Decode JSON; InvalidRequest if it is invalid or ambiguous (an object repeats a member)."""
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(InvalidField("", _json_fault(body, str(error)))) from error
    if not (isinstance(value, dict) and len(value) == body.count(b":")) and _has_duplicates(body, value):
        if len(body) <= MAX_NAMED_BYTES:
            json.loads(body, object_pairs_hook=_reject_duplicates)  # noqa: TID251  # `from_json` has bounded its depth
        raise InvalidRequest(InvalidField("", "repeats a member of an object; send each member once"))
    return value


def _has_duplicates(body: bytes, value: object) -> bool:
    """Whether an object in the body repeats a member. Its value, as JSON, then has fewer colons than the body."""
    colons = body.count(b":")
    if isinstance(value, dict) and len(value) + sum(len(v) for v in value.values() if isinstance(v, dict)) == colons:
        return False  # the common case with metadata
    if b"\\u003" in body:
        unpaired = body.replace(b"\\\\", b"")  # each remaining backslash escapes the character after it
        colons += unpaired.count(b"\\u003a") + unpaired.count(b"\\u003A")
    return to_json(value).count(b":") < colons


def _json_fault(body: bytes, error: str) -> str:
    """Say why a body was not decoded: it is empty, exceeds a limit of the parser, or is not JSON."""
    if not body.strip(b" \t\r\n"):
        return "is empty; send a JSON object"
    limit = next((f"{reason} ({error})" for sign, reason in _LIMITS.items() if sign in error), None)
    return f"is not JSON: {json_errors.explain(body, error)}" if limit is None else limit


def decode_operations(body: bytes, max_operations: int) -> Any:
    """Decode a large document of operations like `decode`; InvalidRequest if there are more than `max_operations`.

    The parser holds the GIL. So each operation is decoded separately, and the event loop can run after at most
    MAX_BYTES. An operation that is larger, or too costly to decode, is an InvalidRequest in the returned list.
    """
    elements = _elements(body, max_operations)
    document = decode(_outline(body, elements))
    operations = document.get("operations") if isinstance(document, dict) else None
    if isinstance(operations, list):
        for index, element in enumerate(operations):
            if isinstance(element, list):
                start, end = elements[element[0]]
                operations[index] = _decode_operation(body[start:end], index)
    return document


def _outline(body: bytes, elements: Sequence[tuple[int, int]]) -> bytes:
    """Return the document with each operation replaced by `[number]`, so that no other list is at that level."""
    parts, offset = [], 0
    for number, (start, end) in enumerate(elements):
        parts += [body[offset:start], b"[%d]" % number]
        offset = end
    outline = b"".join([*parts, body[offset:]])
    if len(outline) > MAX_BYTES:
        raise InvalidRequest(
            InvalidField("", f"has over {MAX_BYTES} bytes outside of its operations; send only operations")
        )
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


def _elements(body: bytes, max_operations: int) -> list[tuple[int, int]]:
    """Return the start and end of each object and list at the third level of a JSON text.

    The text is searched in parts of MAX_BYTES, because a search holds the GIL.
    """
    elements: list[tuple[int, int]] = []
    depth = start = offset = brackets = 0
    while offset < len(body):
        part_end = offset + MAX_BYTES
        offset = _OUTSIDE.match(body, offset, part_end).end()  # type: ignore[union-attr]  # it matches any text
        if offset >= min(part_end, len(body)):
            continue
        bracket = body[offset : offset + 1]
        offset += 1
        if bracket == b'"':  # of a string that ends after this part
            offset = _end_of_string(body, offset)
            continue
        brackets += 1
        if brackets > MAX_BRACKETS:
            most_values = MAX_BRACKETS // 2
            raise InvalidRequest(
                InvalidField("", f"has over {most_values} objects and lists; send fewer, or send lines ({NDJSON})")
            )
        depth += 1 if bracket in b"[{" else -1
        if depth == _LEVEL and bracket in b"[{":
            start = offset - 1
        elif depth == _LEVEL - 1 and bracket in b"]}":
            elements.append((start, offset))
            if len(elements) > max_operations:
                raise InvalidRequest(
                    InvalidField("/operations", f"has over {max_operations} operations; send them as lines ({NDJSON})")
                )
    return elements


def _end_of_string(body: bytes, offset: int) -> int:
    """Return the offset after the string in which `offset` lies; the length of the body if it does not end."""
    while offset < len(body):
        part_end = min(offset + MAX_BYTES, len(body))
        offset = _IN_STRING.match(body, offset, part_end).end()  # type: ignore[union-attr]  # it matches any text
        if offset < part_end and body[offset] == _QUOTE:
            return offset + 1
        if offset < part_end:  # a backslash, whose character is in the next part
            offset += 2
    return len(body)


def _example(model: type[BaseModel]) -> str:
    return Source(model, {}, "member").example or "{}"


def validate(value: object, model: type[_Body], context: dict[str, Any]) -> _Body:
    """Validate a JSON value as the model; InvalidRequest with every fault and its place."""
    if isinstance(value, InvalidRequest):  # from decode_operations: too large or too costly to decode
        raise value
    if not isinstance(value, dict):
        raise InvalidRequest(_type_of_value(value, model))
    if len(value) > MAX_MEMBERS:
        raise InvalidRequest(InvalidField("", f"has {len(value)} members, most of them unknown; remove those"))
    try:
        return model.model_validate(value, context=context)
    except ValidationError as error:
        raise InvalidRequest(*body_faults(error, Source(model, value, "member"))) from error


def _type_of_value(value: object, model: type[BaseModel]) -> InvalidField:
    """Return the fault that a value is not an object."""
    if issubclass(model, BatchOperation):
        example = json.dumps({"op": "get", "guid": EXAMPLE_GUID})
        return InvalidField("", f"an operation {json_errors.explain_type(value, example)}", is_clause=True)
    return InvalidField("", json_errors.explain_type(value, _example(model)))


def _reject_duplicates(members: list[tuple[str, Any]]) -> None:
    """Reject an object that repeats a member: parsers differ in which one they use (RFC 8259, 4)."""
    names: set[str] = set()
    for name, _ in members:
        if name in names:
            what = f"the member {name!r}" if is_quotable(name) else "a member"
            raise InvalidRequest(InvalidField("", f"repeats {what}; send each member once"))
        names.add(name)
