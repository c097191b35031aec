"""Reader of the responses stored in receipts.

A few KiB of compressed text may unpack to megabytes. Large responses are unpacked in threads, with bounded concurrency
and fairly between owners, so that replays never block the event loop.
"""

import asyncio
from typing import Any

from pydantic_core import from_json

from guidsvc.errors import CorruptRecord
from guidsvc.http.response import Response
from guidsvc.runtime.fairness.fair_semaphore import FairSemaphore
from guidsvc.services.receipt_quota import unpack, unpack_small

PLACES = 2
"""Maximum number of large responses unpacked concurrently, one per owner."""
WAIT_SECONDS = 1.0
"""Maximum time that a replay waits for its place."""


class StoredResponseReader:
    """The reader of stored responses, shared by all owners in a process."""

    def __init__(self, wait_seconds: float = WAIT_SECONDS) -> None:
        self._places = FairSemaphore(PLACES)
        self._wait_seconds = wait_seconds

    async def read(self, owner: str, text: str) -> Response:
        """Unpack a response that `pack` encoded; raise Overloaded if a large one waits too long."""
        rendered = unpack_small(text)
        if rendered is not None:
            return _parse(rendered)
        refusal = "too many large answers are being given again"
        async with self._places.place_within(owner, self._wait_seconds, refusal):
            return await asyncio.to_thread(_unpack, text)


def _unpack(text: str) -> Response:
    return _parse(unpack(text))


def _parse(rendered: bytes) -> Response:
    """Parse a response. Only types are checked, because the service itself wrote it."""
    try:
        value: Any = from_json(rendered)
        status, headers, body = value
    except (ValueError, TypeError) as error:
        raise CorruptRecord(f"a stored answer is not valid: {error}") from error
    has_headers = isinstance(headers, dict) and all(isinstance(text, str) for text in headers.values())
    if not (isinstance(status, int) and has_headers and (body is None or isinstance(body, str))):
        raise CorruptRecord("a stored answer is not valid: it is not a status, headers and a body")
    return Response(status, headers, body)
