"""Execution of a request at most once for its Idempotency-Key."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from guidsvc.api.execution.response_codec import decode_response, encode_response
from guidsvc.http.response import Response
from guidsvc.services.idempotency import GuidFactory, Idempotency, Request, RequestBody

Work = Callable[[GuidFactory | None], Awaitable[Response]]
"""Executes a request. The factory supplies the GUIDs, the same for each repetition of the request."""


class PartedWork(Protocol):
    """Work whose response has parts, such as a batch: their outcomes may be unknown, and their forms shorter."""

    def encode(self, response: Response) -> bytes:
        """Encode the new response."""

    def shorter(self) -> Iterable[bytes]:
        """Return encoded shorter forms of the response, of which one may be stored. Called in a thread."""

    async def resume(self, encoded: bytes) -> RequestBody | None:
        """Return what executes the parts with unknown outcome of a stored response; None if there are none."""

    async def refresh(self, response: Response) -> Response:
        """Update a new response after it was stored, which may take seconds."""


async def execute_once(
    idempotency: Idempotency, request: Request, work: Work, parted: PartedWork | None = None
) -> tuple[Response, bool]:
    """Return the response of `work`, or the stored one if its key was used before, and whether it is a replay."""
    new_response: Response | None = None

    async def encode_new(guid_factory: GuidFactory | None) -> bytes:
        nonlocal new_response
        new_response = await work(guid_factory)
        return encode_response(new_response) if parted is None else parted.encode(new_response)

    forms = (None, None) if parted is None else (parted.shorter, parted.resume)
    stored, is_replayed = await idempotency.once(request, encode_new, *forms)
    if new_response is None:
        return await decode_response(stored), is_replayed
    del stored  # as large as the response
    return new_response if parted is None else await parted.refresh(new_response), is_replayed
