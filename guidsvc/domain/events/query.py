"""The query of the event feed: the beginning, the filter, the number of events, and the time to wait."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator, ValidationInfo, WithJsonSchema, field_validator

from guidsvc import similarity
from guidsvc.domain.commands.fields import optional_field
from guidsvc.domain.commands.queries import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, Limit, NoQuery, Owner
from guidsvc.domain.events import cursor as cursors
from guidsvc.domain.events.cursor import SealedCursor
from guidsvc.domain.events.entry import KINDS, Kind, event_type
from guidsvc.domain.record import DIGITS, GUID_CHARACTERS, GUID_PATTERN, User, parse_guid, validation_error
from guidsvc.errors import InvalidGuid

MAX_WAIT_SECONDS = 30
TYPES: dict[str, Kind] = {event_type(kind): kind for kind in KINDS}
"""The types of events, as clients name them."""
CURSOR_FAULT = "is not valid; send the `cursor` of an event, or `next` of a response, unchanged"
_PREFIX_PATTERN = f"^[0-9A-F]{{1,{GUID_CHARACTERS}}}$"
CURSOR_PATTERN = f"^A[g-v][A-Za-z0-9_-]{{{cursors.CHARACTERS - 2}}}$"
"""Base64 whose first byte is the form."""
_MAX_TYPE, _MIN_SIMILARITY = 40, 0.8
"""Number of characters of a type that are compared with the known ones, and minimum similarity of a suggestion."""
_TYPE = rf"guid\.({'|'.join(KINDS)})"
_TYPES_SCHEMA: dict[str, Any] = {"type": "string", "pattern": f"^{_TYPE}(,{_TYPE})*$"}


def _parse_cursor(value: str) -> SealedCursor:
    cursor = cursors.decode(value)
    if cursor is None:
        raise validation_error("cursor_invalid", CURSOR_FAULT)
    return cursor


def _parse_types(value: str) -> frozenset[Kind]:
    names = value.split(",", len(TYPES))
    unknown = next((name for name in names if name not in TYPES), None)
    if unknown is not None:
        raise validation_error(
            "event_types",
            "must be one or more of {known}, separated by commas{question}",
            known=", ".join(TYPES),
            question=_question(unknown),
        )
    return frozenset(TYPES[name] for name in names)


def _question(name: str) -> str:
    """Return a question that suggests the type that a name probably means; empty if there is none."""
    bare = name[:_MAX_TYPE].strip().lower().removeprefix("guid.")
    near = similarity.nearest(f"guid.{bare}", TYPES.keys(), min_similarity=_MIN_SIMILARITY)
    return "" if near is None else f"; did you mean {near}?"


def _parse_guid(value: str) -> str:
    try:
        return parse_guid(value)
    except InvalidGuid as error:
        raise validation_error("guid_form", "{reason}", reason=str(error)) from error


def _parse_prefix(value: str) -> str:
    if re.fullmatch(_PREFIX_PATTERN[1:-1], value) is None:
        raise validation_error("guid_prefix", "must be 1 to 32 upper-case hexadecimal characters (0-9, A-F)")
    return value


def _parse_wait(value: str) -> int:
    seconds = int(value.lstrip("0")[:3] or "0") if DIGITS.fullmatch(value) else -1  # int() rejects very long strings
    if not 0 <= seconds <= MAX_WAIT_SECONDS:
        raise validation_error("wait", "must be a whole number of seconds from 0 to {most}", most=MAX_WAIT_SECONDS)
    return seconds


EventCursor = Annotated[
    SealedCursor, PlainValidator(_parse_cursor), WithJsonSchema({"type": "string", "pattern": CURSOR_PATTERN})
]
EventTypes = Annotated[frozenset[Kind], PlainValidator(_parse_types), WithJsonSchema(_TYPES_SCHEMA)]
EventGuid = Annotated[str, PlainValidator(_parse_guid), WithJsonSchema({"type": "string", "pattern": GUID_PATTERN})]
GuidPrefix = Annotated[
    str, PlainValidator(_parse_prefix), WithJsonSchema({"type": "string", "pattern": _PREFIX_PATTERN})
]
Wait = Annotated[
    int,
    BeforeValidator(_parse_wait),
    WithJsonSchema({"type": "integer", "minimum": 0, "maximum": MAX_WAIT_SECONDS}),
]


class EventQuery(NoQuery):
    """The query of the feed of events."""

    cursor: EventCursor | None = optional_field(
        "Where to continue: `next` of a page, or the `cursor` of an event or bookmark, unchanged."
    )
    begin: Literal["oldest", "now"] = Field("oldest", alias="from", description="Where to begin without a cursor.")
    type: EventTypes | None = optional_field("Only events of these types, separated by commas.")
    guid: EventGuid | None = optional_field("Only events of this GUID.")
    guid_prefix: GuidPrefix | None = optional_field("Only events of GUIDs that begin so.")
    user: User | None = optional_field("Only events of records that have or had this user.")
    owner: Owner | None = optional_field(
        "Only events of records of this owner. Only admins may name another owner than their own."
    )
    limit: Limit | None = optional_field(
        f"The number of events on a page: {DEFAULT_PAGE_SIZE} by default, at most {MAX_PAGE_SIZE}; or in a stream."
    )
    wait: Wait = Field(
        0,
        description="Wait up to this many seconds for the first event.",
    )
    view: Literal["brief"] | None = optional_field("`brief` omits the records.")
    follow: Literal["true", "false"] = Field(
        "false", description="`true` continues after the newest event, in a stream of lines."
    )

    @field_validator("guid_prefix")
    @classmethod
    def _exclude_guid(cls, value: str | None, info: ValidationInfo) -> str | None:
        """Reject a prefix beside a GUID."""
        if value is not None and info.data.get("guid") is not None:
            raise validation_error("prefix_excludes", "excludes `guid`; send one of them")
        return value

    @property
    def page(self) -> int:
        """The number of events on a page."""
        return min(self.limit or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
