"""The known state of a part: by probes, and by operations that fail."""

import asyncio
from collections.abc import Callable

import pytest
import structlog
from structlog.testing import LogCapture

from guidsvc.errors import CacheUnavailable, GuidsvcError, StoreReadOnly, StoreReplaced, StoreUnavailable
from guidsvc.monitoring import health
from guidsvc.monitoring.health import DOUBT_SECONDS, DOWN, READ_ONLY, REPLACED, UP, Health, PartHealth
from guidsvc.runtime.background import running_in_background
from guidsvc.telemetry.outage import Outage


class Part:
    """A part that answers a probe as it is told, and counts the probes."""

    def __init__(self) -> None:
        self.error: GuidsvcError | None = None
        self.is_silent = False
        self.probes = 0

    async def probe(self) -> None:
        """Answer."""
        self.probes += 1
        if self.is_silent:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error


async def until(condition: Callable[[], bool]) -> None:
    """Return as soon as the condition holds."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (None, UP),
        (StoreUnavailable("x"), DOWN),
        (CacheUnavailable("x"), DOWN),
        (StoreReadOnly("x"), READ_ONLY),
        (StoreReplaced("x"), REPLACED),
    ],
)
async def test_state_is_that_of_the_last_probe(error: GuidsvcError | None, state: str) -> None:
    part, of_part = Part(), PartHealth()
    part.error = error
    await of_part.check(part.probe)
    assert of_part.state == state
    part.error = None
    await of_part.check(part.probe)
    assert of_part.state == UP


async def test_part_that_does_not_answer_a_probe_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "TIMEOUT_SECONDS", 0.01)
    part, of_part = Part(), PartHealth()
    part.is_silent = True
    await of_part.check(part.probe)
    assert of_part.state == DOWN


async def test_failed_operations_cause_few_probes() -> None:
    part, of_part = Part(), PartHealth()
    async with running_in_background(lambda: of_part.keep(part.probe)):
        part.error = StoreUnavailable("x")
        of_part.note_failure()
        await until(lambda: of_part.state == DOWN)
        before, begun = part.probes, asyncio.get_running_loop().time()
        for _ in range(10_000):
            of_part.note_failure()
            await asyncio.sleep(0)
        seconds = asyncio.get_running_loop().time() - begun
    assert part.probes - before <= 1 + seconds / health.MIN_PAUSE_SECONDS


async def test_failed_operation_settles_the_doubt_about_a_silent_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "TIMEOUT_SECONDS", 3600)
    now = [0.0]
    part, of_part = Part(), PartHealth(timer=lambda: now[0])
    part.is_silent = True
    probing = asyncio.create_task(of_part.check(part.probe))
    await until(lambda: part.probes == 1)
    of_part.note_failure()
    assert of_part.state == UP, "the probe has only begun"
    now[0] += DOUBT_SECONDS + 0.1
    of_part.note_failure()
    assert of_part.state == DOWN
    probing.cancel()


@pytest.mark.parametrize(
    ("worse", "logged"), [(StoreReplaced("x"), [[], []]), (StoreUnavailable("x"), [["down"], ["answers"]])]
)
async def test_writes_are_back_only_when_the_part_is_up(worse: GuidsvcError, logged: list[list[str]]) -> None:
    """Not when a part that rejects writes fails in another way, which says nothing about its writes."""
    lines = LogCapture()
    log = structlog.wrap_logger(None, processors=[lines])
    outages = {DOWN: Outage(log, "down", "answers"), READ_ONLY: Outage(log, "rejects writes", "accepts writes")}
    part, of_part = Part(), PartHealth(outages)
    events = []
    for error in (StoreReadOnly("x"), worse, StoreReadOnly("x"), None):
        part.error = error
        await of_part.check(part.probe)
        events.append([entry["event"] for entry in lines.entries])
        lines.entries.clear()
    assert events == [["rejects writes"], *logged, ["accepts writes"]]


def test_outage_is_logged_once_with_its_duration() -> None:
    lines, now = LogCapture(), [0.0]
    log = structlog.wrap_logger(None, processors=[lines])
    outage = Outage(log, "store unavailable", "store available again", timer=lambda: now[0])
    outage.end()
    for number in range(3):
        outage.begin(error=f"fault {number}")
    now[0] += 12.34
    outage.end()
    outage.end()
    assert lines.entries == [
        {"event": "store unavailable", "error": "fault 0", "log_level": "warning"},
        {"event": "store available again", "down_seconds": 12.3, "log_level": "info"},
    ]


@pytest.mark.parametrize(
    ("seconds", "clock"), [(None, None), (0.5, None), (-0.4, None), (1.24, "1.2 s ahead"), (-61.0, "61.0 s behind")]
)
async def test_clock_is_reported_if_it_is_wrong(seconds: float | None, clock: str | None) -> None:
    assert Health(lambda: seconds).report().get("clock") == clock
