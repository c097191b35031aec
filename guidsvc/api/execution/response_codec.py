"""Responses as text, in which form the receipts of idempotent requests store them.

A small response is a JSON array. In a large one, or one with parts, the body follows the array after a newline,
unchanged. So its body needs no decoding, which would take many times its size in memory:

    [200,{"A":"b"},"the body"]
    [200,{"A":"b"}]
    the body
    [200,{"A":"b"},[1,5],[80,95,...]]
    the body

Only the array says whether a response has parts with an unknown outcome. No text of a client can say so.
"""

from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from guidsvc.errors import CorruptRecord
from guidsvc.http.response import Response
from guidsvc.runtime.background import in_thread

SMALL_BYTES = 64 * 1024
"""Maximum size of a text that is decoded on the event loop."""
_IN_ARRAY_BYTES = SMALL_BYTES // 2
"""Maximum size of a body in the array, where each of its characters may need an escape."""
_PARTED_LENGTH = 4
"""Number of members of the array of a response with parts."""


class Parts(NamedTuple):
    """The parts of a body: the positions of those with an unknown outcome, and the sizes of all in bytes."""

    unknown: list[int]
    sizes: list[int]


def encode_response(response: Response, parts: Parts | None = None) -> bytes:
    """Return a response as text. Parts are given only if the outcome of some is unknown."""
    status, headers, body = response
    if parts is None and (body is None or len(body) <= _IN_ARRAY_BYTES):
        return to_json(response)
    return b"%b\n%b" % (to_json([status, headers, *(parts or ())]), body or b"")


async def decode_response(text: bytes) -> Response:
    """Return the response that `encode_response` encoded; raise CorruptRecord if the text is none.

    A large array, which versions up to 0.1.0 stored, is decoded in a thread, so that replays never block the event
    loop.
    """
    end = text.find(b"\n")
    if end >= 0:
        return _response(_array(text[:end])[:2], text[end + 1 :])
    array = _array(text) if len(text) <= SMALL_BYTES else await in_thread(_array, text)
    return _response(array[:2], _body_of(array))


def parts_of(text: bytes) -> Parts | None:
    """Return the parts of an encoded response; None if the outcome of all is known."""
    end = text.find(b"\n")
    array = _array(text[:end]) if end >= 0 else []
    return Parts(*array[2:]) if len(array) == _PARTED_LENGTH else None


def _array(text: bytes) -> list[Any]:
    """Decode the array of a response. Only types are checked, because the service itself wrote it."""
    try:
        array = from_json(text)
    except ValueError as error:
        raise CorruptRecord(f"a stored answer is not valid: {error}") from error
    if not isinstance(array, list):
        raise CorruptRecord("a stored answer is not valid: it is not an array")
    return array


def _body_of(array: list[Any]) -> bytes | None:
    body = array[2] if len(array) == 3 else False  # noqa: PLR2004  # status, headers and body
    if not (body is None or isinstance(body, str)):
        raise CorruptRecord("a stored answer is not valid: it has no body")
    return None if body is None else body.encode()


def _response(head: list[Any], body: bytes | None) -> Response:
    match head:
        case [int() as status, dict() as headers] if all(isinstance(each, str) for each in headers.values()):
            return Response(status, headers, body)
        case _:
            raise CorruptRecord("a stored answer is not valid: it is not a status, headers and a body")
