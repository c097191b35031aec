"""An HTTP response before rendering."""

from http.client import NO_CONTENT, NOT_MODIFIED
from typing import NamedTuple


class Response(NamedTuple):
    """The status, headers and body of a response."""

    status: int
    headers: dict[str, str]
    body: bytes | None


BODILESS = frozenset({NO_CONTENT, NOT_MODIFIED})
