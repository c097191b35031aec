"""Schemas of API keys."""

from typing import Annotated, Any, Literal

from pydantic import Field

from guidsvc.api.contract.schemas.fields import Digits, Schema, closed, optional
from guidsvc.api.contract.schemas.leases import KeyLimits
from guidsvc.domain.api_key import EXAMPLE_ID, KEY_ID_PATTERN, SECRET_CHARACTERS, KeyState, format_key
from guidsvc.domain.caller import SCOPES, Scope
from guidsvc.domain.record import EXAMPLE

_EXAMPLE_KEY: dict[str, Any] = {
    "id": EXAMPLE_ID,
    "owner": EXAMPLE["user"],
    "scopes": ["read", "write"],
    "created": "1795420608123",
    "state": "live",
}
_EXAMPLE_TEXT = format_key(EXAMPLE_ID, "0" * SECRET_CHARACTERS)


class Key(KeyLimits):
    """The description of an API key."""

    model_config = closed(_EXAMPLE_KEY, _EXAMPLE_KEY | {"used": "1795424400000", "expire": "4102444800"})

    id: Annotated[str, Field(pattern=KEY_ID_PATTERN)]
    owner: Annotated[str, Field(description="The owner whose records the key can access.")]
    scopes: Annotated[list[Scope], Field(min_length=1, description="What the key may do.")]
    created: Annotated[Digits, Field(description="The time of creation, in Unix milliseconds.")]
    note: str = optional("What the key is for. Absent if it has no note.")
    used: Digits = optional("The last use, accurate to one hour, in Unix milliseconds. Absent if it was never used.")
    expire: Digits = optional("The expiry, in Unix seconds. Absent if the key does not expire.")
    state: Annotated[KeyState, Field(description="Whether the key is valid, or why it is not.")]


class IssuedKey(Key):
    """An API key that was just created or rotated, with its text."""

    model_config = closed(_EXAMPLE_KEY | {"key": _EXAMPLE_TEXT})

    key: Annotated[
        str, Field(description="Send it as `Authorization: Bearer <key>`. It is shown only in this response.")
    ]


class RateLeft(Schema):
    """A limit of requests, its window in seconds, and the number of requests that are left in it."""

    model_config = closed({"limit": 600, "seconds": 60, "left": 594})

    limit: Annotated[int, Field(description="The maximum number of requests in a window.")]
    seconds: int
    left: int


class QuotaUsed(Schema):
    """The quota of an owner, and its use."""

    model_config = closed({"limit": 1000, "live": 12})

    limit: Annotated[int, Field(description="The maximum number of live GUIDs of the owner.")]
    live: Annotated[int, Field(description="The number of live GUIDs of the owner.")]


class OwnKey(KeyLimits):
    """The key or token of a request. Without access control, only `access` and `scopes`."""

    model_config = closed({"access": "keys"} | _EXAMPLE_KEY, {"access": "off", "scopes": list(SCOPES)})

    access: Annotated[Literal["keys", "off"], Field(description="Whether access is controlled.")]
    id: Annotated[str, Field(pattern=KEY_ID_PATTERN)] = optional("The id of the key. Absent for a token.")
    owner: str = optional("The owner whose records you can access.")
    scopes: Annotated[list[Scope], Field(description="What you may do.")]
    created: Digits = optional("The time of creation of the key, in Unix milliseconds. Absent for a token.")
    note: str = optional("What the key is for. Absent if it has no note.")
    used: Digits = optional("The last use of the key, accurate to one hour, in Unix milliseconds.")
    expire: Digits = optional("The expiry of the key or token, in Unix seconds. Absent if it does not expire.")
    state: KeyState = optional("Always `live`.")
    rate: RateLeft = optional("The rate limit. Absent without one.")
    quota: QuotaUsed = optional("The quota. Absent without one, and if the scope `write` is missing.")


class KeyPage(Schema):
    """A page of API keys."""

    model_config = closed({"items": [_EXAMPLE_KEY], "next": None})

    items: list[Key]
    next: Annotated[str | None, Field(description="The cursor of the next page; null on the last page.")]
