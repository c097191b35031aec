"""The parser emits the same requests however their bytes are split, and however rarely there is room for the next."""

import tracemalloc
from collections import deque
from itertools import pairwise

from httptools import HttpRequestParser
from hypothesis import example, given
from hypothesis import strategies as st

from guidsvc.server.protocol.parser import CHUNKED_SLICES, HEAD_SLICES, REQUESTS, SLICE_BYTES, RequestParser
from guidsvc.server.protocol.request import RawHeaders, RawRequest, RejectedRequest

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
"""Bytes that begin with no known HTTP method: an error after a request."""
ROOM = 4


class QueueingCallbacks:
    """Parser callbacks that queue requests, with room for a few."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.waiting: deque[RawRequest] = deque()
        self.max_waiting = 0
        self.bodies = 0
        self.is_behind = False
        self.events: list[tuple[bytes, bytes, bytes] | str] = []

    def on_request_head(
        self, method: bytes, target: bytes, headers: RawHeaders, parser: HttpRequestParser
    ) -> RawRequest | None:
        message = RawRequest(method, target, "HTTP/1.1", headers, last=not parser.should_keep_alive())
        self.waiting.append(message)
        self.max_waiting = max(self.max_waiting, len(self.waiting))
        return message

    def has_room(self) -> bool:
        return len(self.waiting) < self.room

    def resume_parsing_soon(self) -> None:
        self.is_behind = True

    def on_body(self, message: RawRequest) -> None:
        self.bodies += 1

    def on_message_complete(self, message: RawRequest) -> None: ...

    def on_protocol_error(self, rejected: RejectedRequest, broken: RawRequest | None) -> None:
        if broken is not None:
            self.waiting.remove(broken)
        self.events.append(type(rejected.error).__name__)

    def take_complete(self) -> bool:
        """Remove the first request if it is complete; return whether it was."""
        if not self.waiting or not self.waiting[0].is_complete:
            return False
        first = self.waiting.popleft()
        self.events.insert(
            len([event for event in self.events if not isinstance(event, str)]),
            (first.method, first.target, b"".join(first.chunks)),
        )
        return True


def parse_parts(parts: list[bytes], room: int) -> QueueingCallbacks:
    """Feed the parts to a parser, and take complete requests whenever it pauses."""
    callbacks = QueueingCallbacks(room)
    parser = RequestParser(callbacks, 16 * 1024)
    for part in parts:
        parser.feed(part)
        while callbacks.take_complete() or callbacks.is_behind:
            callbacks.is_behind = False
            parser.resume()
    assert parser.buffered_bytes < 16 * 1024 + SLICE_BYTES
    return callbacks


@given(
    st.lists(st.sampled_from(_REQUESTS), max_size=8),
    st.sampled_from(_ENDS),
    st.lists(st.floats(0, 1), max_size=6),
)
@example([_REQUESTS[0]] * 200, b"", [])
@example([_REQUESTS[7]] * 200, b"", [0.5])
def test_parts_of_any_size_parse_to_the_same_requests(requests: list[bytes], end: bytes, cuts: list[float]) -> None:
    data = b"".join(requests) + end
    positions = sorted({0, len(data), *(int(cut * len(data)) for cut in cuts)})
    expected = parse_parts([*requests, end], 10**9)
    parsed = parse_parts([data[start:stop] for start, stop in pairwise(positions)], ROOM)
    assert parsed.events == expected.events
    assert len([event for event in parsed.events if not isinstance(event, str)]) >= len(requests)
    assert parsed.max_waiting <= ROOM + SLICE_BYTES // len(_REQUESTS[0]) + 1


@given(
    st.lists(st.sampled_from(_REQUESTS), min_size=1, max_size=4),
    st.sampled_from(_NO_METHODS) | st.binary(min_size=1, max_size=40),
)
def test_request_is_emitted_once_whatever_follows_it(requests: list[bytes], end: bytes) -> None:
    parsed = parse_parts([b"".join(requests) + end], 10**9)
    assert len([event for event in parsed.events if event[0] in {b"GET", b"PUT"}]) == len(requests)


def test_small_chunks_are_parsed_over_many_turns() -> None:
    """They are reported once per turn, because each report may start the handler."""
    chunks = 10_000
    callbacks = QueueingCallbacks(2)
    parser = RequestParser(callbacks, 16 * 1024)
    parser.feed(_PUT + _CHUNKED + b"1\r\na\r\n" * chunks + b"0\r\n\r\n")

    turns = 1
    while callbacks.is_behind:
        parsed_bytes = sum(map(len, callbacks.waiting[0].chunks))
        callbacks.is_behind = False
        parser.resume()
        assert sum(map(len, callbacks.waiting[0].chunks)) - parsed_bytes <= CHUNKED_SLICES * SLICE_BYTES / 6 + 1
        turns += 1

    assert callbacks.waiting[0].is_complete
    assert sum(map(len, callbacks.waiting[0].chunks)) == chunks
    assert callbacks.bodies <= turns + 1


def most_requests_in_a_turn(before: bytes, data: bytes) -> int:
    """Return how many requests of the data begin at most in a turn, in which `before` may have left a body unfinished.

    Check that all requests begin.
    """
    callbacks = QueueingCallbacks(10**9)
    parser = RequestParser(callbacks, 16 * 1024)
    counts = [0]
    for part in (before, data):
        parser.feed(part)
        counts.append(parser.request_count)
        while callbacks.is_behind:
            callbacks.is_behind = False
            parser.resume()
            counts.append(parser.request_count)
    assert counts[-1] == (before + data).count(b" HTTP/1.1\r\n")
    return max(after - before for before, after in pairwise(counts))


MOST_IN_A_TURN = REQUESTS + SLICE_BYTES // len(_REQUESTS[0])


def test_few_pipelined_requests_are_parsed_in_a_turn() -> None:
    """The connections of a client take turns for the rest."""
    assert REQUESTS <= most_requests_in_a_turn(b"", _REQUESTS[0] * 1_000) <= MOST_IN_A_TURN


def test_few_requests_behind_a_body_are_parsed_in_a_turn() -> None:
    """Wherever the body ends in the bytes that are parsed at once."""
    for size in range(1, 6_000, 331):
        body, requests = b"x" * size, _REQUESTS[0] * 1_000
        chunks = b"%x\r\n%b\r\n" % (size, body)
        for before, end in (
            (_PUT + _CHUNKED, chunks + b"0\r\n\r\n"),
            (_PUT + _CHUNKED + chunks, b"0\r\nX: y\r\n\r\n"),
            (_PUT + _UPGRADE + _CHUNKED, chunks + b"0\r\n\r\n"),
            (_PUT + b"Content-Length: %d\r\n\r\n" % size, body),
            (_PUT + _UPGRADE + b"Content-Length: %d\r\n\r\n" % size, body),
        ):
            assert most_requests_in_a_turn(before, end + requests) <= MOST_IN_A_TURN
            assert most_requests_in_a_turn(b"", before + end + requests) <= MOST_IN_A_TURN


def test_many_bytes_before_a_request_are_parsed_over_many_turns() -> None:
    """Headers and empty lines."""
    many_headers = _LIVE + (b"a:" + b"x" * 100 + b"\r\n") * 90 + b"\r\n"
    for data in (many_headers * 20, b"\r\n" * 50_000 + _REQUESTS[0]):
        callbacks = QueueingCallbacks(10**9)
        parser = RequestParser(callbacks, 16 * 1024)
        parser.feed(data)
        turns = 1
        while callbacks.is_behind:
            callbacks.is_behind = False
            parser.resume()
            turns += 1
        assert turns >= len(data) // (HEAD_SLICES * SLICE_BYTES)
        assert len(callbacks.waiting) == data.count(_LIVE)


def test_any_number_of_requests_is_parsed_without_recursion() -> None:
    for request in (_REQUESTS[2], _REQUESTS[7], _REQUESTS[10]):
        callbacks = parse_parts([request * 5000], ROOM)
        assert len(callbacks.events) == 5000


def test_queued_requests_count_by_their_memory() -> None:
    """Including what was parsed but is not used, such as unknown headers."""
    callbacks = QueueingCallbacks(16)
    parser = RequestParser(callbacks, 16 * 1024)
    request = _LIVE + b"X-Long: " + b"x" * 15_000 + b"\r\n\r\n"
    tracemalloc.start()
    try:
        memory_before, _ = tracemalloc.get_traced_memory()
        parser.feed(request * 17)
        while callbacks.waiting:
            used_bytes = tracemalloc.get_traced_memory()[0] - memory_before
            assert used_bytes < parser.buffered_bytes + sum(
                request_.memory_bytes + 4096 for request_ in callbacks.waiting
            )
            callbacks.take_complete()
            parser.resume()
    finally:
        tracemalloc.stop()


def test_lines_of_an_incomplete_head_count_as_objects() -> None:
    """A client may send 100 short lines, which nothing reads, and then nothing more."""
    head = b"GET / HTTP/1.1\r\n" + b"a1:bc\r\n" * 100
    tracemalloc.start()
    try:
        parsers = [RequestParser(QueueingCallbacks(16), 16 * 1024) for _ in range(100)]
        before_bytes, _ = tracemalloc.get_traced_memory()
        for parser in parsers:
            parser.feed(head)
        used_bytes = tracemalloc.get_traced_memory()[0] - before_bytes
    finally:
        tracemalloc.stop()
    assert used_bytes < sum(parser.buffered_bytes for parser in parsers) < 2.5 * used_bytes
