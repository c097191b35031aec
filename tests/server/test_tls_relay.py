"""The relay of TLS records by itself: what it passes on, when, and in which parts."""

import asyncio
from collections.abc import Callable
from random import Random

import pytest

from guidsvc.runtime.fairness import loop_turns
from guidsvc.server.accepting import tls_relay
from guidsvc.server.accepting.tls_relay import PART_BYTES, RecordBoundaries, TlsRelay, TlsTurns


class Sides:
    """The transport, the TLS protocol and its decrypted side, as far as the relay uses them."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.is_paused = self.is_aborted = self.is_closed = self.has_paused_application = False
        self.on_part: Callable[[], object] = lambda: None
        self._buffer = bytearray()

    def get_buffer(self, sizehint: int) -> memoryview:
        self._buffer = bytearray(sizehint)
        return memoryview(self._buffer)

    def buffer_updated(self, nbytes: int) -> None:
        assert self.is_closed or not self.has_paused_application, "the application does not read"
        self.parts.append(bytes(self._buffer[:nbytes]))
        self.on_part()

    def is_reading(self) -> bool:
        return not self.has_paused_application

    def is_closing(self) -> bool:
        return self.is_closed or self.is_aborted

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def abort(self) -> None:
        self.is_aborted = True

    def eof_received(self) -> None:
        """Do nothing; nor do the next two."""

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    @property
    def passed(self) -> bytes:
        return b"".join(self.parts)


def relay_to(sides: Sides) -> TlsRelay:
    """Return a relay between these sides that has begun."""
    relay = TlsRelay(sides, sides, sides, RecordBoundaries(), TlsTurns(), "")  # type: ignore[arg-type]  # all it uses
    relay.start(b"")
    return relay


async def deliver(relay: TlsRelay, sides: Sides, data: bytes) -> None:
    """Let the transport receive the data, when it reads."""
    while sides.is_paused:
        await asyncio.sleep(0)
    relay.get_buffer(-1)[: len(data)] = data
    relay.buffer_updated(len(data))


def record(content: bytes) -> bytes:
    """Return the content with the header of a record."""
    return b"\x17\x03\x03" + len(content).to_bytes(2) + content


async def test_records_arrive_in_order_and_only_while_read() -> None:
    random = Random(5)
    for _ in range(200):
        sides = Sides()
        relay = relay_to(sides)

        def pause_at_random(sides: Sides = sides, relay: TlsRelay = relay) -> None:
            if random.random() < 0.3:
                sides.has_paused_application = True
                asyncio.get_running_loop().call_soon(resume, sides, relay)

        sides.on_part = pause_at_random
        sent = b""
        for _ in range(random.randrange(1, 12)):
            contents = [
                random.randbytes(random.choice((0, 1, 40, 16_380, 16_384))) for _ in range(random.choice((1, 1, 3)))
            ]
            data = b"".join(record(content) for content in contents)
            cut = random.choice((len(data), len(data), random.randrange(len(data))))
            for piece in (data[:cut], data[cut:]):
                if piece:
                    await deliver(relay, sides, piece)
            sent += data
        while len(sides.passed) < len(sent):
            await asyncio.sleep(0)
        assert sides.passed == sent
        assert max(map(len, sides.parts)) <= PART_BYTES


async def test_one_part_is_passed_on_in_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The application parses some requests of each part. Padding fills a record that holds few."""
    monkeypatch.setattr(loop_turns, "TURN_SECONDS", 0.0)
    sides = Sides()
    relay = relay_to(sides)
    sent = record(b"x" * (PART_BYTES - 5)) * 6
    await deliver(relay, sides, sent)
    for turns in range(1, 7):
        assert len(sides.parts) == turns
        await asyncio.sleep(0)
    assert sides.passed == sent


def resume(sides: Sides, relay: TlsRelay) -> None:
    """Let the application read again."""
    sides.has_paused_application = False
    relay.resume()


async def test_rest_of_a_record_that_looks_like_one_is_none() -> None:
    """A client chooses what its records hold. A header stays whole, else its records could not be counted."""
    sides = Sides()
    relay = relay_to(sides)
    inner = record(b"x" * 60)
    outer = record(b"y" * 30 + inner)
    await deliver(relay, sides, outer[: -len(inner)])
    await deliver(relay, sides, inner)
    last = record(b"z")
    await deliver(relay, sides, last[:3])

    assert sides.passed == outer
    await deliver(relay, sides, last[3:])
    assert sides.passed == outer + last


async def test_rest_of_a_header_stays_behind_its_beginning() -> None:
    sides = Sides()
    relay = relay_to(sides)
    rest_bytes = 2 + 50
    sent = record(b"x" + (rest_bytes - 5).to_bytes(2) + b"x" * 47)
    await deliver(relay, sides, sent[:3])
    await deliver(relay, sides, sent[3:])

    assert sides.passed == sent


async def test_few_records_are_passed_on_while_a_client_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The TLS protocol answers some records, such as KeyUpdates, and keeps what it cannot send."""
    monkeypatch.setattr(tls_relay, "UNREAD_RECORDS", 20)
    sides = Sides()
    relay = relay_to(sides)
    relay.pause_writing()
    sent = b""
    for number in range(100):
        if not sides.is_paused:
            data = record(b"%d" % number)
            await deliver(relay, sides, data)
            sent += data
        await asyncio.sleep(0)
    assert len(sides.parts) == 20

    relay.resume_writing()
    while sides.is_paused:
        await asyncio.sleep(0)
    assert sides.passed == sent


async def test_single_records_after_the_end_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_relay, "CLOSING_BYTES", 1_000)
    sides = Sides()
    relay = relay_to(sides)
    sides.is_closed = True
    for _ in range(9):
        await deliver(relay, sides, record(b"x" * 100))
        assert not sides.is_aborted

    await deliver(relay, sides, record(b"x" * 100))

    assert sides.is_aborted
