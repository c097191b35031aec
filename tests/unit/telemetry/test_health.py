"""The health of a component, from probes and from failed operations."""

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


class FakeComponent:
    """A component with controlled probe results, which counts the probes."""

    def __init__(self) -> None:
        self.error: GuidsvcError | None = None
        self.is_silent = False
        self.probes = 0

    async def probe(self) -> None:
        """Respond to a probe."""
        self.probes += 1
        if self.is_silent:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
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
    component, health_ = FakeComponent(), PartHealth()
    component.error = error
    await health_.check(component.probe)
    assert health_.state == state
    component.error = None
    await health_.check(component.probe)
    assert health_.state == UP


async def test_component_that_does_not_answer_a_probe_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "TIMEOUT_SECONDS", 0.01)
    component, health_ = FakeComponent(), PartHealth()
    component.is_silent = True
    await health_.check(component.probe)
    assert health_.state == DOWN


async def test_failed_operations_cause_few_probes() -> None:
    component, health_ = FakeComponent(), PartHealth()
    async with running_in_background(lambda: health_.keep(component.probe)):
        component.error = StoreUnavailable("x")
        health_.note_failure()
        await until(lambda: health_.state == DOWN)
        probes_before, started = component.probes, asyncio.get_running_loop().time()
        for _ in range(10_000):
            health_.note_failure()
            await asyncio.sleep(0)
        seconds = asyncio.get_running_loop().time() - started
    assert component.probes - probes_before <= 1 + seconds / health.MIN_PAUSE_SECONDS


async def test_failed_operation_marks_a_silent_component_as_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "TIMEOUT_SECONDS", 3600)
    now = [0.0]
    component, health_ = FakeComponent(), PartHealth(timer=lambda: now[0])
    component.is_silent = True
    probing = asyncio.create_task(health_.check(component.probe))
    await until(lambda: component.probes == 1)
    health_.note_failure()
    assert health_.state == UP, "the probe has only begun"
    now[0] += DOUBT_SECONDS + 0.1
    health_.note_failure()
    assert health_.state == DOWN
    probing.cancel()


@pytest.mark.parametrize("is_failing", [False, True])
async def test_reason_of_silence_names_the_store(monkeypatch: pytest.MonkeyPatch, *, is_failing: bool) -> None:
    """Whether the check itself ends, or an operation fails before."""
    monkeypatch.setattr(health, "TIMEOUT_SECONDS", 3600 if is_failing else 0.01)
    now, lines = [0.0], LogCapture()
    log = structlog.wrap_logger(None, processors=[lines])
    component = FakeComponent()
    health_ = PartHealth({DOWN: Outage(log, "down", "answers")}, name="MongoDB", timer=lambda: now[0])
    component.is_silent = True
    probing = asyncio.create_task(health_.check(component.probe))
    await until(lambda: component.probes == 1)
    if is_failing:
        now[0] += DOUBT_SECONDS + 0.1
        health_.note_failure()
    await until(lambda: health_.state == DOWN)
    probing.cancel()
    assert [entry["error"].partition(":")[0] for entry in lines.entries] == ["MongoDB"]


@pytest.mark.parametrize(
    ("second_error", "logged"), [(StoreReplaced("x"), [[], []]), (StoreUnavailable("x"), [["down"], ["answers"]])]
)
async def test_writes_are_back_only_when_the_component_is_up(
    second_error: GuidsvcError, logged: list[list[str]]
) -> None:
    """Not when a component that rejects writes fails in another way, which does not mean that it accepts writes."""
    lines = LogCapture()
    log = structlog.wrap_logger(None, processors=[lines])
    outages = {DOWN: Outage(log, "down", "answers"), READ_ONLY: Outage(log, "rejects writes", "accepts writes")}
    component, health_ = FakeComponent(), PartHealth(outages)
    events = []
    for error in (StoreReadOnly("x"), second_error, StoreReadOnly("x"), None):
        component.error = error
        await health_.check(component.probe)
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
