"""The results of a batch in its stored response, in which the outcome of some creations is unknown.

A repetition of the batch executes only these creations again: they generate the same GUIDs, so they find the records
that exist already. All other results are repeated as they were stored. Operations on GUIDs that the client named are
not executed again, because others may have changed these GUIDs since.

A result stays unknown until its creation succeeds: an error of a repetition says nothing about an earlier attempt.

The shortest form of a result always fits: a receipt has room for those of the largest batch, whatever its client sent.
"""

import json
import re
from collections.abc import Iterator, Sequence
from http.client import GATEWAY_TIMEOUT, INTERNAL_SERVER_ERROR
from typing import Any

from pydantic_core import from_json, to_json

from guidsvc.api.execution.response_codec import SMALL_BYTES, decode_response
from guidsvc.api.resources.batch.executor import BRIEF_BYTES, Result, is_creation
from guidsvc.errors import CorruptRecord
from guidsvc.http.response import Response
from guidsvc.runtime.background import in_thread

_UNKNOWN = frozenset({GATEWAY_TIMEOUT, INTERNAL_SERVER_ERROR})
"""Statuses of operations that may have taken effect, or may not."""
_HINT = re.compile(rb'\\"status\\":50[04]\b')
"""Found in every encoded response with such a result, and in few others: its body is a string in JSON."""
MINIMAL = {"Preference-Applied": "return=minimal"}
"""The headers of a response without records."""
_OMITTED = "The details of this error were not stored, because the response was too large."
_SHORT_MEMBERS = "status", "guid", "etag"
_SHORT_PROBLEM_MEMBERS = "type", "title", "status", "code", "request_id"
_START, _END = '{"results":[', "]}"
_DECODER = json.JSONDecoder()


class StoredResults:
    """The results of a stored response, as texts. `unknown` are the positions of creations with an unknown outcome."""

    def __init__(self, response: Response, texts: Sequence[str], unknown: Sequence[int], max_bytes: int) -> None:
        self.unknown = unknown
        self._headers = response.headers
        self._texts, self._brief_texts = list(texts), list(texts)
        self._is_brief = "Preference-Applied" in response.headers
        self._room = max_bytes - sum(max(len(text.encode()), BRIEF_BYTES) + 1 for text in texts)

    def replace(self, index: int, result: Result) -> None:
        """Replace an unknown result by this one, in brief form if the response has no records or no space."""
        text = result.brief if self._is_brief else result.fit(BRIEF_BYTES + max(0, self._room))
        self._room -= max(0, len(text) - BRIEF_BYTES)
        self._texts[index], self._brief_texts[index] = text.decode(), result.brief.decode()

    def response(self) -> Response:
        """Return the response with the current results."""
        return self._response(self._texts)

    def shorter(self) -> Iterator[Response]:
        """Yield the response without the records of the results that were replaced, and then without any details."""
        yield self._response(self._brief_texts)
        shortest = [shorten(text.encode()).decode() for text in self._brief_texts]
        yield self._response(shortest)._replace(headers=MINIMAL)

    def _response(self, texts: Sequence[str]) -> Response:
        return Response(200, self._headers, f"{_START}{','.join(texts)}{_END}".encode())


def shorten(text: bytes) -> bytes:
    """Return a result without its record, and its problem without what a client may have chosen."""
    result = from_json(text)
    members = {name: result[name] for name in _SHORT_MEMBERS if name in result}
    if "problem" in result:
        members["problem"] = {name: result["problem"][name] for name in _SHORT_PROBLEM_MEMBERS} | {"detail": _OMITTED}
    return to_json(members)


async def find_unknown(encoded: bytes, values: Sequence[Any], max_bytes: int) -> StoredResults | None:
    """Return the results of an encoded response to these operations; None if the outcome of each creation is known.

    A response with other results than the unknown ones has at most `max_bytes`.
    """
    if _HINT.search(encoded) is None:
        return None
    response = await decode_response(encoded)
    if len(encoded) <= SMALL_BYTES:
        return _find_unknown(response, values, max_bytes)
    return await in_thread(_find_unknown, response, values, max_bytes)


def _find_unknown(response: Response, values: Sequence[Any], max_bytes: int) -> StoredResults | None:
    texts, statuses = _split((response.body or b"").decode())
    if len(texts) != len(values):
        raise CorruptRecord(f"a stored answer has {len(texts)} results for {len(values)} operations")
    unknown = [index for index, status in enumerate(statuses) if status in _UNKNOWN and is_creation(values[index])]
    return StoredResults(response, texts, unknown, max_bytes) if unknown else None


def _split(body: str) -> tuple[list[str], list[int]]:
    """Return the text of each result in a body, unchanged, and its status."""
    texts: list[str] = []
    statuses: list[int] = []
    start = len(_START)
    try:
        while body[start - 1] in "[,":
            value, end = _DECODER.raw_decode(body, start)
            texts.append(body[start:end])
            statuses.append(value["status"])
            start = end + 1
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CorruptRecord(f"a stored answer is not valid: {error}") from error
    return texts, statuses
