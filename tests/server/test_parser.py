"""The reader reads the same requests, however their bytes are cut, and however seldom there is room for the next."""

import tracemalloc
from collections import deque
from itertools import pairwise

from httptools import HttpRequestParser
from hypothesis import example, given
from hypothesis import strategies as st

from guidsvc.server.protocol.parser import CHUNKED_SLICE_BYTES, CHUNKED_SLICES, HEAD_SLICE_BYTES, RequestParser
from guidsvc.server.protocol.request import RawHeaders, RawRequest

_LIVE = b"GET /livez HTTP/1.1\r\nHost: a\r\n"
_PUT = b"PUT /guid HTTP/1.1\r\nHost: a\r\n"
_UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
_REQUESTS = [
    _LIVE + b"\r\n",
    _LIVE + b"X-Long: " + b"x" * 3000 + b"\r\n\r\n",
    _LIVE + _UPGRADE + b"\r\n",
    b"\r\n\r\n" + _LIVE + b"\r\n",
    _PUT + b"Content-Length: 5\r\n\r\nab\r\nc",
    _PUT + b"Content-Length: 0\r\n\r\n",
    _PUT + b"Content-Length: 200000\r\n\r\n" + b"GET / HTTP/1.1\r\n" * 12_500,
    _PUT + _UPGRADE + b"Content-Length: 5\r\n\r\nabcde",
    _PUT + _CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
    _PUT + _CHUNKED + b"1\r\na\r\n" * 3000 + b"0\r\nX: y\r\n\r\n",
    _PUT + _UPGRADE + _CHUNKED + b"3\r\nabc\r\n0\r\n\r\n",
    b"PUT /guid HTTP/1.2\r\nHost: a\r\nContent-Length: 1\r\n\r\na",
]
_ENDS = [
    b"",
    b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    _LIVE + b"X : y\r\n\r\n",
    _LIVE + b"Connection: close\r\n\r\nx",
    _LIVE,
]
_NO_METHODS = [
    b"\0",
    b"}",
    b"  x",
    b"x y",
    b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"PLAY / HTTP/1.1\r\nHost: a\r\n\r\n",
]
"""What begins with no method that is known in HTTP; behind a request, an error."""
ROOM = 4


class Waiting:
    """A sink in which requests wait; there is room for a few."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.waiting: deque[RawRequest] = deque()
        self.most = 0
        self.bodies = 0
        self.is_behind = False
        self.events: list[tuple[bytes, bytes, bytes] | str] = []

    def on_request_head(
        self, method: bytes, target: bytes, headers: RawHeaders, parser: HttpRequestParser
    ) -> RawRequest | None:
        message = RawRequest(method, target, "HTTP/1.1", headers, last=not parser.should_keep_alive())
        self.waiting.append(message)
        self.most = max(self.most, len(self.waiting))
        return message

    def has_room(self) -> bool:
        return len(self.waiting) < self.room

    def resume_parsing_soon(self) -> None:
        self.is_behind = True

    def on_body(self, message: RawRequest) -> None:
        self.bodies += 1

    def on_message_complete(self, message: RawRequest) -> None: ...

    def on_protocol_error(self, error: Exception, broken: RawRequest | None) -> None:
        if broken is not None:
            self.waiting.remove(broken)
        self.events.append(type(error).__name__)

    def take(self) -> bool:
        """Answer the first request, if all of it has come; whether it had."""
        if not self.waiting or not self.waiting[0].is_complete:
            return False
        first = self.waiting.popleft()
        self.events.insert(
            len([each for each in self.events if not isinstance(each, str)]),
            (first.method, first.target, b"".join(first.chunks)),
        )
        return True


def events_of(parts: list[bytes], room: int) -> Waiting:
    """Read the parts, and answer what there is whenever no more is read."""
    sink = Waiting(room)
    reader = RequestParser(sink, 16 * 1024)
    for part in parts:
        reader.feed(part)
        while sink.take() or sink.is_behind:
            sink.is_behind = False
            reader.resume()
    assert reader.buffered_bytes < 16 * 1024 + HEAD_SLICE_BYTES
    return sink


@given(
    st.lists(st.sampled_from(_REQUESTS), max_size=8),
    st.sampled_from(_ENDS),
    st.lists(st.floats(0, 1), max_size=6),
)
@example([_REQUESTS[0]] * 200, b"", [])
@example([_REQUESTS[7]] * 200, b"", [0.5])
def test_parts_of_any_size_parse_to_the_same_requests(requests: list[bytes], end: bytes, cuts: list[float]) -> None:
    sent = b"".join(requests) + end
    places = sorted({0, len(sent), *(int(cut * len(sent)) for cut in cuts)})
    expected = events_of([*requests, end], 10**9)
    found = events_of([sent[start:stop] for start, stop in pairwise(places)], ROOM)
    assert found.events == expected.events
    assert len([each for each in found.events if not isinstance(each, str)]) >= len(requests)
    assert found.most <= ROOM + 4096 // 40


@given(
    st.lists(st.sampled_from(_REQUESTS), min_size=1, max_size=4),
    st.sampled_from(_NO_METHODS) | st.binary(min_size=1, max_size=40),
)
def test_request_is_emitted_once_whatever_follows_it(requests: list[bytes], end: bytes) -> None:
    found = events_of([b"".join(requests) + end], 10**9)
    assert len([each for each in found.events if each[0] in {b"GET", b"PUT"}]) == len(requests)


def test_small_chunks_are_parsed_over_many_turns() -> None:
    """And reported once for each slice, as each report may start its handler."""
    chunks = 10_000
    sink = Waiting(2)
    reader = RequestParser(sink, 16 * 1024)
    reader.feed(_PUT + _CHUNKED + b"1\r\na\r\n" * chunks + b"0\r\n\r\n")

    turns = 1
    while sink.is_behind:
        parsed = sum(map(len, sink.waiting[0].chunks))
        sink.is_behind = False
        reader.resume()
        assert sum(map(len, sink.waiting[0].chunks)) - parsed <= CHUNKED_SLICES * CHUNKED_SLICE_BYTES / 6 + 1
        turns += 1

    assert sink.waiting[0].is_complete
    assert sum(map(len, sink.waiting[0].chunks)) == chunks
    assert sink.bodies <= turns * CHUNKED_SLICES


def test_any_number_of_requests_is_parsed_without_recursion() -> None:
    for request in (_REQUESTS[2], _REQUESTS[7], _REQUESTS[10]):
        sink = events_of([request * 5000], ROOM)
        assert len(sink.events) == 5000


def test_queued_requests_count_by_their_memory() -> None:
    """Whatever has been read before it, such as headers that nobody reads."""
    sink = Waiting(16)
    reader = RequestParser(sink, 16 * 1024)
    request = _LIVE + b"X-Long: " + b"x" * 15_000 + b"\r\n\r\n"
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        reader.feed(request * 17)
        while sink.waiting:
            taken_bytes = tracemalloc.get_traced_memory()[0] - before
            assert taken_bytes < reader.buffered_bytes + sum(each.memory_bytes + 4096 for each in sink.waiting)
            sink.take()
            reader.resume()
    finally:
        tracemalloc.stop()
