"""Values of the parameters of lists: cursors, and times that bound the expiry."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import PlainValidator, TypeAdapter, WithJsonSchema

from guidsvc.domain.durations import Moment, parse_duration, parse_moment, require_zone
from guidsvc.domain.record import DIGITS, GUID_CHARACTERS, MAX_TIME, TIME_PATTERN, Expire, Record, validation_error

Order = Literal["guid", "expire"]
"""The order of a list: by GUID, or by expiry and then GUID."""

_GUID_FORM, _EXPIRE_FORM = b"\x01", b"\x02"
"""The first byte of a cursor: the format, which depends on the order. A GUID follows, or an expiry and a GUID."""
_EXPIRE_BYTES = 5  # MAX_TIME has 38 bits
_CURSOR_PATTERN = "^(A[Q-Za-f][A-Za-z0-9_-]{20}[AEIMQUYcgkosw048]|A[g-v][A-Za-z0-9_-]{27}[AQgw])$"
"""Base64 of 17 or 22 bytes, the first of which is the format."""


class Position(NamedTuple):
    """A position in a list: after this GUID or, in order of expiry, after this expiry and GUID."""

    guid: str
    expire: int | None = None

    @classmethod
    def start(cls, order: Order) -> "Position":
        """Return the position before the first record."""
        return cls("", None if order == "guid" else 0)

    @classmethod
    def after(cls, record: Record, order: Order) -> "Position":
        """Return the position after a record."""
        return cls(record.guid, None if order == "guid" else record.expire)

    @property
    def order(self) -> Order:
        """The order of the list."""
        return "guid" if self.expire is None else "expire"


def render_cursor(position: Position) -> str:
    """Return the cursor that continues a list at this position."""
    expire = b"" if position.expire is None else position.expire.to_bytes(_EXPIRE_BYTES)
    form = _GUID_FORM if position.expire is None else _EXPIRE_FORM
    return urlsafe_b64encode(form + expire + bytes.fromhex(position.guid)).decode().rstrip("=")


def parse_cursor(value: str) -> Position:
    """Return the position of a cursor; raise ValueError if the service has not made it."""
    if re.fullmatch(_CURSOR_PATTERN, value):
        raw = urlsafe_b64decode(value + "==")
        guid = raw[-GUID_CHARACTERS // 2 :].hex().upper()
        return Position(guid, int.from_bytes(raw[1 : 1 + _EXPIRE_BYTES]) if raw[:1] == _EXPIRE_FORM else None)
    raise validation_error("cursor_form", "is not valid; send `next` of the previous response unchanged")


BOUND_FORMS = (
    "Unix time in seconds, a date (2027-01-01), a time with its time zone (2027-01-01T12:00:00Z), "
    "or an offset from now (+24h, -30m, +7d)"
)
_EXPIRE: TypeAdapter[int] = TypeAdapter(Expire)
_DURATION = r"[+ -]?[0-9]{1,12}(\.[0-9]{1,6})?(ms|[smhdw])?"
_TIME = r"[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+ -][0-9]{2}:[0-9]{2})"
_BOUND_PATTERN = f"^({_DURATION}|[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}([Tt ]{_TIME})?)$"
_BOUND_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "pattern": TIME_PATTERN},
        {"type": "string", "pattern": _BOUND_PATTERN},
        {"type": "integer", "minimum": 0, "maximum": MAX_TIME},
    ]
}


def parse_bound(value: object) -> Moment:
    """Return the time that a bound of the expiry names (`BOUND_FORMS`); raise ValueError if it names none.

    A query string may hold a literal +, which decodes to a blank. So a blank before a duration or a zone is a +.
    """
    if not isinstance(value, str) or DIGITS.fullmatch(value):
        return Moment(_EXPIRE.validate_python(value), is_from_now=False)
    try:
        require_zone(value)
        if re.fullmatch(_BOUND_PATTERN, value) is None:
            raise validation_error("bound_form", "must be {forms}", forms=BOUND_FORMS)
        text = re.sub("^ | (?=[0-9]{2}:[0-9]{2}$)", "+", value)
        if text.startswith("-"):
            return Moment(-int(parse_duration(text[1:])), is_from_now=True)
        return parse_moment(text)
    except ValueError as error:
        raise validation_error("bound_value", "{reason}", reason=str(error)) from error


Cursor = Annotated[
    Position, PlainValidator(parse_cursor), WithJsonSchema({"type": "string", "pattern": _CURSOR_PATTERN})
]
Bound = Annotated[Moment, PlainValidator(parse_bound), WithJsonSchema(_BOUND_SCHEMA)]
