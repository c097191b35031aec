"""The response of a request, before it is rendered."""

from http.client import NO_CONTENT, NOT_MODIFIED
from typing import NamedTuple


class Response(NamedTuple):
    """What a client is answered."""

    status: int
    headers: dict[str, str]
    body: str | None


BODILESS = frozenset({NO_CONTENT, NOT_MODIFIED})
