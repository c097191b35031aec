"""The results of a batch in its stored response, in which the outcome of some creations is unknown.

A repetition of the batch executes only these creations again: they generate the same GUIDs, so they find the records
that exist already. All other results are repeated as they were stored. Operations on GUIDs that the client named are
not executed again, because others may have changed these GUIDs since.

A result stays unknown until its creation succeeds: an error of a repetition says nothing about an earlier attempt.

The shortest form of a result always fits: a receipt has room for those of the largest batch, whatever its client sent.
"""

from collections.abc import Iterator, Mapping, Sequence
from http.client import GATEWAY_TIMEOUT, INTERNAL_SERVER_ERROR
from itertools import accumulate

from pydantic_core import from_json, to_json

from guidsvc.api.execution.response_codec import Parts, decode_response, encode_response, parts_of
from guidsvc.api.resources.batch.executor import BRIEF_BYTES, Result
from guidsvc.api.resources.batch.operations import is_creation
from guidsvc.errors import CorruptRecord
from guidsvc.http.response import Response

MINIMAL = {"Preference-Applied": "return=minimal"}
"""The headers of a response without records."""
_UNKNOWN = frozenset({GATEWAY_TIMEOUT, INTERNAL_SERVER_ERROR})
"""Statuses of operations that may have taken effect, or may not."""
_OMITTED = "The details of this error were not stored, because the response was too large."
_SHORT_MEMBERS = "status", "guid", "etag"
_SHORT_PROBLEM_MEMBERS = "type", "title", "status", "code", "request_id"
_START, _END = b'{"results":[', b"]}"


def render_results(texts: Sequence[bytes]) -> bytes:
    """Return the document with these results."""
    return b"%b%b%b" % (_START, b",".join(texts), _END)


def encode_results(headers: Mapping[str, str], texts: Sequence[bytes], unknown: Sequence[int]) -> bytes:
    """Return the encoded response with these results, of which those at the positions `unknown` are unknown."""
    return encode_response(Response(200, dict(headers), render_results(texts)), parts_with(texts, unknown))


def parts_with(texts: Sequence[bytes], unknown: Sequence[int]) -> Parts | None:
    """Return the parts of a response with these results; None if none is unknown."""
    return Parts(list(unknown), list(map(len, texts))) if unknown else None


def is_unknown(value: object, result: Result) -> bool:
    """Whether the operation of this JSON value must be executed again to know its outcome."""
    return result.status in _UNKNOWN and is_creation(value)


class StoredResults:
    """The results of a stored response, as texts. `unknown` are the positions of creations with an unknown outcome."""

    def __init__(self, headers: Mapping[str, str], texts: list[bytes], unknown: Sequence[int], max_bytes: int) -> None:
        self.unknown = unknown
        self._headers = headers
        self._texts, self._brief_texts = texts, list(texts)
        self._still_unknown = dict.fromkeys(unknown)
        self._is_brief = MINIMAL.items() <= headers.items()
        self._room = max_bytes - sum(max(len(text), BRIEF_BYTES) + 1 for text in texts)

    def replace(self, index: int, result: Result) -> None:
        """Replace an unknown result by this one, in brief form if the response has no records or no space."""
        text = result.brief if self._is_brief else result.fit(BRIEF_BYTES + max(0, self._room))
        self._room -= max(0, len(text) - BRIEF_BYTES)
        self._texts[index], self._brief_texts[index] = text, result.brief
        del self._still_unknown[index]

    def encode(self) -> bytes:
        """Return the encoded response with the current results."""
        return encode_results(self._headers, self._texts, list(self._still_unknown))

    def shorter(self) -> Iterator[bytes]:
        """Yield the response without the records of the results that were replaced, and then without any details."""
        yield encode_results(self._headers, self._brief_texts, list(self._still_unknown))
        yield encode_results(MINIMAL, list(map(shorten, self._brief_texts)), list(self._still_unknown))


def shorten(text: bytes) -> bytes:
    """Return a result without its record, and its problem without what a client may have chosen."""
    result = from_json(text)
    members = {name: result[name] for name in _SHORT_MEMBERS if name in result}
    if "problem" in result:
        members["problem"] = {name: result["problem"][name] for name in _SHORT_PROBLEM_MEMBERS} | {"detail": _OMITTED}
    return to_json(members)


async def find_unknown(encoded: bytes, count: int, max_bytes: int) -> StoredResults | None:
    """Return the results of an encoded response to `count` operations; None if the outcome of each creation is known.

    A response with other results than the unknown ones has at most `max_bytes`.
    """
    parts = parts_of(encoded)
    if parts is None:
        return None
    _, headers, body = await decode_response(encoded)
    starts = list(accumulate((size + 1 for size in parts.sizes), initial=len(_START)))
    if len(parts.sizes) != count or body is None or starts[-1] - 1 + len(_END) != len(body):
        raise CorruptRecord(f"a stored answer has no results for {count} operations, or others")
    texts = [body[start : start + size] for start, size in zip(starts, parts.sizes, strict=False)]
    return StoredResults(headers, texts, parts.unknown, max_bytes)
