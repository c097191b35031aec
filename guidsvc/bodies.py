"""What clients send: the bodies and the queries of requests, as models that judge them.

A body is validated with the GUID of the path, or None, as `guid` in the context. This module knows no HTTP:
`guidsvc.web` reads bytes and query strings into these.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from guidsvc.errors import InvalidGuid
from guidsvc.models import GUID_CHARACTERS, Time, User, fault, parse_guid, render_metadata

PAGE, MOST = 50, 500
"""Records on a page of a list: where the client names no limit, and at most."""

MEMBERS = frozenset({"expire", "user", "metadata"})
"""The members of a record that a client gives."""

_DIGITS = re.compile(r"[0-9]+")
_CURSOR_FORM = b"\x01"  # the first byte of a cursor: another form of it will begin with another


def _parse_expire(value: object) -> int:
    """Take a string of ASCII digits or an integer, as bodies carry it; the range is judged by `Time`."""
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        # Leading zeros mean nothing, and int() would take time over a long string that is out of range anyway.
        return int(value.lstrip("0")[:13] or "0")
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise fault("expire_type", "must be Unix time in seconds, as a string of digits or an integer")


def _refuse_null(value: object) -> object:
    if value is None:
        raise fault("null", "must not be null; leave the member out instead")
    return value


Expire = Annotated[Time, BeforeValidator(_parse_expire)]


def _parse_limit(value: str) -> int:
    """Take a string of digits; how many a page has at most is not judged here: more is cut down."""
    if not _DIGITS.fullmatch(value) or not value.strip("0"):
        raise fault("limit_type", "must be a number of records, 1 or more")
    return int(value.lstrip("0")[:13])


def render_cursor(guid: str) -> str:
    """Return the cursor that continues a list after this GUID."""
    return urlsafe_b64encode(_CURSOR_FORM + bytes.fromhex(guid)).decode().rstrip("=")


def _parse_cursor(value: str) -> str:
    """Return the GUID that the list is to continue after."""
    try:
        guid = urlsafe_b64decode(value + "==")[len(_CURSOR_FORM) :].hex().upper()
    except ValueError:
        guid = ""
    if len(guid) != GUID_CHARACTERS or render_cursor(guid) != value:
        raise fault("cursor_form", "is no cursor of ours: take it from `next` of a page, as it stands")
    return guid


class NoQuery(BaseModel):
    """The query of a request that has no parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RecordQuery(NoQuery):
    """The query of a request that is answered with a record: in full, or as it is."""

    view: Literal["full"] | None = None


class ListQuery(RecordQuery):
    """The query of a list: which records, in what form, from where, and how many. Times are Unix seconds."""

    user: User | None = None
    state: Literal["live", "expired", "all"] = "live"
    expires_before: Expire | None = None
    expires_after: Expire | None = None
    limit: Annotated[int | None, BeforeValidator(_parse_limit)] = None
    cursor: Annotated[str | None, BeforeValidator(_parse_cursor)] = None

    @property
    def page(self) -> int:
        """How many records a page has."""
        return min(self.limit or PAGE, MOST)


class BatchQuery(RecordQuery):
    """The query of a batch: how its records are answered, and whether it is only to say what would happen."""

    validate_only: Literal["true", "false"] = "false"


class _Members(BaseModel):
    """What every body may give. To be validated with the GUID of the path, or None, as `guid` in the context."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    expire: Annotated[Expire | None, BeforeValidator(_refuse_null)] = None
    user: Annotated[User | None, BeforeValidator(_refuse_null)] = None
    guid: Annotated[str | None, BeforeValidator(_refuse_null)] = None

    @field_validator("guid")
    @classmethod
    def _same_guid(cls, value: str, info: ValidationInfo) -> str:
        """What was read can be put back, GUID and all; but a body cannot name another GUID than the path."""
        expected = (info.context or {}).get("guid")
        if expected is None:
            raise fault("guid_unexpected", "the service draws the GUID here; to choose one, PUT it to /guid/<guid>")
        if value != expected:
            raise fault("guid_differs", "must be the GUID of the path, {guid}: a GUID cannot be changed", guid=expected)
        return value


class Change(_Members):
    """The body of a PUT to a GUID: the members it gives are in `model_fields_set`, and only those count."""

    metadata: Annotated[str | None, BeforeValidator(render_metadata), BeforeValidator(_refuse_null)] = None


class Patch(_Members):
    """The body of a PATCH: a JSON merge patch (RFC 7396). `metadata` is the patch of that, or None to remove it."""

    metadata: Annotated[dict[str, Any], Field(strict=True)] | None = None


class Creation(Change):
    """The body of a request to create under a GUID that the service draws: there must be a user."""

    user: User


class Operation(Change):
    """One operation of a batch: a put, unless it says otherwise; without a GUID the service draws one.

    `if_match` and `if_none_match` are written as the headers of these names are.
    """

    op: Literal["put", "get", "delete"] = "put"
    if_match: Annotated[str | None, Field(strict=True), BeforeValidator(_refuse_null)] = None
    if_none_match: Annotated[str | None, Field(strict=True), BeforeValidator(_refuse_null)] = None

    @field_validator("guid")
    @classmethod
    def _same_guid(cls, value: str, info: ValidationInfo) -> str:  # noqa: ARG003  # there is no path to differ from
        """A GUID as it stands in a path."""
        try:
            return parse_guid(value)
        except InvalidGuid as error:
            raise fault("guid_form", "{reason}", reason=str(error)) from error

    @model_validator(mode="after")
    def _whole(self) -> "Operation":
        """A get or a delete names its GUID, and has no members to put."""
        if self.op != "put":
            surplus = sorted(self.model_fields_set & MEMBERS)
            if self.guid is None:
                raise fault("guid_missing", "a {op} needs the guid", op=self.op)
            if surplus:
                raise fault("surplus", "a {op} takes no {names}", op=self.op, names=", ".join(surplus))
        return self
