"""The record entity and the validation of its values. Request models are in `guidsvc.domain.commands`.

All value validation is here, and this module knows no clock, store or HTTP. Metadata is stored as compact JSON text,
not as a dict. So a record is immutable, its metadata is returned unchanged, and no layer has to parse it. 1, 1.0 and
true stay distinct; integers have up to 4,300 digits, other numbers are IEEE doubles.
"""

import re
import sys
from collections.abc import Callable, Iterable
from functools import cached_property
from json.encoder import encode_basestring
from typing import Annotated, Any, Literal, Self, TypeVar, overload

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticCustomError, from_json, to_json

from guidsvc.errors import InvalidGuid
from guidsvc.errors.plurals import counted

MAX_TIME = 253_402_300_799
"""The latest expiry: the last second of the year 9999, in Unix time."""
DELETED_EXPIRE = -1
"""The expiry of a tombstone: before every expiry that a client can set, so no list or count matches it."""
MAX_USER_CHARACTERS = 256
MAX_METADATA_BYTES = 16 * 1024
MAX_METADATA_LEVELS = 8
SMALL_BYTES = 4096
"""A record caches its rendered forms if its metadata takes at most this much memory."""
RECORD_BYTES = 2000
"""Memory of a small cached record and its rendered forms, without its texts."""

GUID_CHARACTERS = 32

EXAMPLE_GUID = "9094E4C980C74043A4B586B420E69DDF"
EXAMPLE: dict[str, Any] = {"expire": "4102444800", "user": "Cylance, Inc."}

_GUID = re.compile(r"[0-9A-F]{32}")
_LOOKALIKES = {"O": "0", "o": "0", "I": "1", "i": "1", "L": "1", "l": "1"}
DIGITS = re.compile(r"[0-9]+")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # Unicode's category Cc
_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def parse_guid(text: str) -> str:
    """Return `text` if it is a GUID, 32 characters of 0-9 A-F; else raise InvalidGuid, with the likely correction."""
    if _GUID.fullmatch(text):
        return text
    advice = _mismatch(text)
    end = "" if advice.endswith("?") else "."
    raise InvalidGuid(f"A GUID is 32 upper-case hexadecimal characters (0-9, A-F); this one has {advice}{end}")


def _mismatch(text: str) -> str:
    """Say how a text differs from a GUID, and which GUID was probably meant."""
    bare = text.strip().removeprefix("urn:uuid:").strip("{}").replace("-", "").upper()
    if text.isascii() and _GUID.fullmatch(bare):
        return f"{_notation(text)}: use {bare}"
    if len(text) != GUID_CHARACTERS:
        return counted(len(text), "character")
    strange = next(character for character in text if character not in "0123456789abcdefABCDEF")
    digit = _LOOKALIKES.get(strange)
    return f"{strange!r} in it" + (f"; did you mean the digit {digit}?" if digit else "")


def _notation(text: str) -> str:
    """Return the excess characters of a GUID in another notation."""
    digits = text.replace("urn:uuid:", "")
    found = {
        "spaces around it": text != text.strip(),
        "a prefix": text != digits,
        "braces": "{" in text or "}" in text,
        "dashes": "-" in text,
        "lower-case letters": digits != digits.upper(),
    }
    *others, last = [name for name, is_found in found.items() if is_found]
    return f"{', '.join(others)} and {last}" if others else last


def validation_error(code: str, message: str, **values: object) -> PydanticCustomError:
    """Make the error that a validator raises: a code, and a message template with its values."""
    return PydanticCustomError(code, message, values or None)


def parse_expire(value: object) -> int:
    """Parse an expiry: a string of ASCII digits or an integer. `Time` checks the range."""
    if isinstance(value, str) and DIGITS.fullmatch(value):
        # Leading zeros have no meaning. 13 digits are out of range already, and int() is slow on long strings.
        return int(value.lstrip("0")[:13] or "0")
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise validation_error("expire_type", "must be Unix time in seconds, as a string of digits or an integer")


def check_text(value: str, most: int = MAX_USER_CHARACTERS) -> str:
    """Return a text of 1 to `most` characters that is not blank and has no control characters; else ValueError."""
    if not 1 <= len(value) <= most:
        raise validation_error(
            "text_length", "must have 1 to {most} characters, not {length}", most=most, length=len(value)
        )
    if value.isspace():
        raise validation_error("text_blank", "must not be blank")
    if _CONTROLS.search(value):
        raise validation_error("text_control", "must not contain control characters")
    return value


def render_metadata(value: object) -> bytes | None:
    """Validate a JSON object and return it as compact JSON, or None if it is empty.

    Raise ValueError, with the reason, if it is invalid. As text, one character outside of the Basic Multilingual Plane
    would make it four times as large while its command waits.
    """
    if not isinstance(value, dict):
        raise validation_error("metadata_type", "must be a JSON object")
    rendered = to_json(value)
    if len(rendered) > MAX_METADATA_BYTES:
        raise metadata_too_large()
    check_depth_and_numbers(rendered)
    return rendered if value else None


def metadata_too_large() -> PydanticCustomError:
    """Return the error of metadata with more than MAX_METADATA_BYTES."""
    return validation_error("metadata_size", "must be at most {most} bytes of compact JSON", most=MAX_METADATA_BYTES)


def check_depth_and_numbers(rendered: bytes) -> None:
    """Raise ValueError, with the reason, if compact JSON is too deep or has a number that is too large.

    A merge patch is checked before the merge. Otherwise the error would depend on the stored metadata, and tell a
    caller about it that may not read it.
    """
    outline = _outside_strings(rendered)
    if _is_deeper(outline, MAX_METADATA_LEVELS):
        raise validation_error("metadata_depth", "must be at most {most} levels deep", most=MAX_METADATA_LEVELS)
    if b"I" in outline or b"N" in outline:  # Infinity or NaN
        raise validation_error("metadata_text", "must not contain a number that is too large; send it as a string")


def _outside_strings(rendered: bytes) -> bytes:
    """Return compact JSON without the contents of its strings."""
    if b"\\" in rendered:
        rendered = rendered.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(rendered.split(b'"')[::2])


def _is_deeper(outline: bytes, levels: int) -> bool:
    """Whether objects and arrays are nested more than `levels` deep; the outline must not contain strings.

    Each pass removes the innermost brackets: several times faster than counting them one by one.
    """
    brackets = outline.translate(_SQUARE, _NO_BRACKETS)
    for _ in range(levels):
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


MetadataCheck = Callable[[str], bool]
"""Returns whether a text is known to be valid metadata, at less cost than decoding it. Pass it as validation context.

If it returns False, the text is decoded. So it may reject valid texts, but must never accept an invalid one.
"""
RENDERED: MetadataCheck = bool
"""Accepts metadata that `render_metadata` returned, or that a record of this process had."""


def _check_metadata_text(text: str, info: ValidationInfo) -> str:
    """Validate the JSON text of an object. It must not contain NaN or Infinity, which JSON does not define."""
    is_valid: MetadataCheck | None = info.context
    if is_valid is not None and is_valid(text):
        return text
    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise validation_error(
            "metadata_text", "must not contain a number that is too large; send it as a string"
        ) from error
    if not isinstance(value, dict):
        raise validation_error("metadata_text", "is not a JSON object")
    return text


def _digits_to(most: int) -> str:
    """Return a regular expression for the numbers from 0 to `most`, with or without leading zeros."""
    digits = str(most)
    lower = [
        f"{digits[:index]}[0-{int(digit) - 1}][0-9]{{{len(digits) - index - 1}}}"
        for index, digit in enumerate(digits)
        if digit != "0"
    ]
    return f"^0*(?:[0-9]{{1,{len(digits) - 1}}}|{'|'.join(lower)}|{digits})$"


# The same rules as JSON Schema, for the API description. The patterns use ECMA-262 syntax.
GUID_PATTERN = "^[0-9A-F]{32}$"
TIME_PATTERN = _digits_to(MAX_TIME)
_CONTROL = r"\u0000-\u001f\u007f-\u009f"
_BLANK = r"\u0020\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
USER_PATTERN = f"^[^{_CONTROL}]*[^{_CONTROL}{_BLANK}][^{_CONTROL}]*$"
USER = {"type": "string", "minLength": 1, "maxLength": MAX_USER_CHARACTERS, "pattern": USER_PATTERN}
METADATA: dict[str, Any] = {"type": "object", "additionalProperties": True}

Guid = Annotated[str, Field(pattern=r"\A[0-9A-F]{32}\z")]
Time = Annotated[int, Field(ge=0, le=MAX_TIME)]
_TIME_SCHEMA: dict[str, Any] = {
    "anyOf": [{"type": "string", "pattern": TIME_PATTERN}, {"type": "integer", "minimum": 0, "maximum": MAX_TIME}]
}
Expire = Annotated[Time, BeforeValidator(parse_expire), WithJsonSchema(_TIME_SCHEMA)]
User = Annotated[str, Field(strict=True), AfterValidator(check_text), WithJsonSchema(USER)]
StoredUser = Annotated[str, Field(strict=True, min_length=1, max_length=MAX_USER_CHARACTERS, pattern=USER_PATTERN)]
"""The same rules as `User`, checked without Python: each row that is read has one."""
State = Literal["live", "expired"]
Milliseconds = Annotated[int, Field(ge=0)]


_Value_co = TypeVar("_Value_co", covariant=True)


class _CachedIfSmall(cached_property[_Value_co]):
    """A property that small records cache and large ones compute on each access."""

    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None) -> _Value_co: ...

    def __get__(self, instance: Any, owner: type[Any] | None = None) -> Any:
        if instance is None:
            return self
        value = self.func(instance)
        # Without the lock of `cached_property`: two threads may compute the same value.
        if instance.metadata is None or instance.is_small:
            instance.__dict__[self.attrname] = value
        return value


class Record(BaseModel):
    """A registered GUID as it is stored. Immutable; each change creates a record with a higher `version`.

    Times are Unix seconds, except `created` and `updated`, which are milliseconds. `metadata` is the text of a compact
    JSON object, or None. From `purge_at` on, the store may purge the record.

    A deletion leaves a tombstone for a while: its `expire` is DELETED_EXPIRE, and readers treat it as absent.
    """

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", hide_input_in_errors=True, ignored_types=(_CachedIfSmall,)
    )

    guid: Guid
    user: StoredUser
    expire: Annotated[int, Field(ge=DELETED_EXPIRE, le=MAX_TIME)]
    metadata: Annotated[str, AfterValidator(_check_metadata_text)] | None = None
    owner: str = ""
    version: Milliseconds
    created: Milliseconds
    updated: Milliseconds
    purge_at: Time

    @property
    def is_deleted(self) -> bool:
        """Whether this is a tombstone."""
        return self.expire == DELETED_EXPIRE

    @property
    def is_small(self) -> bool:
        """Whether the record caches its rendered forms."""
        return self.metadata is None or sys.getsizeof(self.metadata) <= SMALL_BYTES

    @property
    def memory_bytes(self) -> int:
        """Approximate memory of the record in a cache, with its cached rendered forms, in bytes."""
        text_bytes = _text_bytes(self.user) + _text_bytes(self.owner) + _text_bytes(self.metadata or "")
        return RECORD_BYTES + (3 * text_bytes if self.is_small else text_bytes)

    @_CachedIfSmall
    def json_body(self) -> bytes:
        """The record as clients see it: a JSON object with guid, expire (a string), user and any metadata."""
        return render_body(self.guid, self.expire, self.user, self.metadata)

    @_CachedIfSmall
    def render_cache(self) -> dict[str, Any]:
        """A dict for other rendered forms. A small record retains it, as a record never changes."""
        return {}

    def full_json(self, state: State, times: dict[str, int | None], *, with_owner: bool) -> bytes:
        """Return `json_body` with times and version (as strings of digits), state, and optionally the owner.

        `times` are further times, in Unix seconds; None becomes null.
        """
        numbers = {name: getattr(self, name) for name in ("created", "updated", "version", "purge_at")} | times
        extra_members = {name: None if number is None else str(number) for name, number in numbers.items()}
        extra_members |= {"state": state} | ({"owner": self.owner} if with_owner else {})
        return b"%b,%b" % (self.json_body[:-1], to_json(extra_members)[1:])


_BODY = '{"guid":"%s","expire":"%d","user":%s}'
"""A record without metadata. The values are valid, so only the user needs escapes: twice as fast as `to_json`."""


def render_body(guid: str, expire: int, user: str, metadata: str | None) -> bytes:
    """Return a record as clients see it; see `Record.json_body`."""
    body = _BODY % (guid, expire, encode_basestring(user))
    return (body if metadata is None else f'{body[:-1]},"metadata":{metadata}}}').encode()


def render_bodies(records: Iterable[Record]) -> list[bytes]:
    """Return `json_body` of each record, without calls for each."""
    bodies: list[bytes] = []
    for record in records:
        members = record.__dict__
        body: bytes | None = members.get("json_body")
        if body is None and members["metadata"] is None:
            text = _BODY % (members["guid"], members["expire"], encode_basestring(members["user"]))
            body = members["json_body"] = text.encode()
        bodies.append(record.json_body if body is None else body)
    return bodies


def _text_bytes(text: str) -> int:
    """Return the memory of a text. A non-ASCII one also caches its UTF-8 form, of up to twice its size."""
    return sys.getsizeof(text) * (1 if text.isascii() else 3)
