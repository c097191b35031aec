"""Responses as JSON text, in which form the receipts of idempotent requests store them."""

from typing import Any

from pydantic_core import from_json, to_json

from guidsvc.errors import CorruptRecord
from guidsvc.http.response import Response
from guidsvc.runtime.background import in_thread

SMALL_BYTES = 64 * 1024
"""Maximum size of a text that is decoded on the event loop."""


def encode_response(response: Response) -> bytes:
    """Return a response as a JSON array of its status, headers and body."""
    return to_json(response)


async def decode_response(text: bytes) -> Response:
    """Return the response that `encode_response` encoded; raise CorruptRecord if the text is none.

    A large one is decoded in a thread, so that replays never block the event loop.
    """
    return _decode(text) if len(text) <= SMALL_BYTES else await in_thread(_decode, text)


def _decode(text: bytes) -> Response:
    """Decode a response. Only types are checked, because the service itself wrote it."""
    try:
        value: Any = from_json(text)
        status, headers, body = value
    except (ValueError, TypeError) as error:
        raise CorruptRecord(f"a stored answer is not valid: {error}") from error
    has_headers = isinstance(headers, dict) and all(isinstance(each, str) for each in headers.values())
    if not (isinstance(status, int) and has_headers and (body is None or isinstance(body, str))):
        raise CorruptRecord("a stored answer is not valid: it is not a status, headers and a body")
    return Response(status, headers, None if body is None else body.encode())
