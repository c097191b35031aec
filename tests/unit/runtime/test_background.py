"""Work beside the requests: it goes on after a fault, which is in the log, and ends with what it was begun for."""

import ast
import asyncio
from functools import partial
from pathlib import Path

import pytest

import guidsvc
from guidsvc.runtime import background as module
from guidsvc.runtime import cancel_scope
from guidsvc.runtime.background import running_in_background, spawn_restarting
from guidsvc.runtime.cancel_scope import CancelScope
from guidsvc.server.protocol.read_throttle import ReadThrottle
from tests.conftest import ExpectedLogs

FAULT = "background task failed"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESTART_SECONDS", 0.0)


class Works:
    """Work that fails at first."""

    def __init__(self, *faults: BaseException) -> None:
        self._faults = [*faults]
        self.lasts = asyncio.Event()
        self.ended = False

    async def keep(self) -> None:
        if self._faults:
            raise self._faults.pop()
        self.lasts.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended = True


@pytest.mark.parametrize("fault", [OSError(24, "Too many open files"), KeyError("x"), asyncio.CancelledError()])
async def test_background_task_continues_after_a_logged_fault(
    fault: BaseException, caplog: pytest.LogCaptureFixture, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(FAULT)
    works = Works(fault, fault)
    async with asyncio.timeout(30), running_in_background(works.keep):
        await works.lasts.wait()
    assert works.ended
    lines = [each.getMessage() for each in caplog.records if FAULT in each.getMessage()]
    assert len(lines) == 2
    assert all("Works.keep" in line and "exc_info" in line for line in lines)


async def test_restarting_task_outlives_the_scope_of_its_request(expected_logs: ExpectedLogs) -> None:
    """A part of the request may exceed its time, which must not end what watches over all of it."""
    expected_logs.add(FAULT)
    works, scope = Works(KeyError("x")), CancelScope()

    async def keep() -> None:
        cancel_scope.checkpoint()
        await works.keep()

    token = cancel_scope.CURRENT.set(scope)
    scope.cancel(is_disconnected=False)
    task = spawn_restarting(keep)
    cancel_scope.CURRENT.reset(token)
    async with asyncio.timeout(30):
        await works.lasts.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert works.ended


async def test_fault_is_logged_at_once_and_does_not_affect_the_block(
    caplog: pytest.LogCaptureFixture, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(FAULT)

    async def fail(_: int) -> None:
        raise ValueError("a fault")

    async with asyncio.timeout(30), running_in_background(partial(fail, 1)):
        while not caplog.records:
            await asyncio.sleep(0)
    assert "fail" in caplog.records[0].getMessage()


async def test_background_task_is_cancelled_between_attempts_too(
    monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(FAULT)
    monkeypatch.setattr(module, "RESTART_SECONDS", 3600.0)
    works = Works(ValueError())
    async with asyncio.timeout(30), running_in_background(works.keep):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not works.lasts.is_set()


async def test_resources_are_released_though_another_release_fails(
    monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("a fault of one")
    monkeypatch.setattr("guidsvc.server.protocol.read_throttle.SECONDS", 0.0)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    let_go = asyncio.Event()

    class Listener:
        def __init__(self, *, fails: bool) -> None:
            self._fails = fails

        def resume_reading(self) -> None:
            if self._fails:
                raise RuntimeError("a fault of one")
            let_go.set()

    held = ReadThrottle()
    held.add(Listener(fails=True))
    held.add(Listener(fails=False))
    async with asyncio.timeout(30):
        await let_go.wait()


PACKAGE = Path(guidsvc.__file__).parent
ONCE = {
    "api/resources/batch/handler.py",
    "auth/tokens/jwks.py",
    "auth/rate_limit.py",
    "cache/fence_monitor.py",
    "cache/memory.py",
    "monitoring/process_monitor.py",
    "process/supervisor.py",
    "runtime/background.py",
    "runtime/batching.py",
    "server/listener.py",
    "server/protocol/cycle.py",
    "services/quota.py",
    "services/receipts/quota.py",
    "store/mongo/bulkhead.py",
    "store/sqlite/engine.py",
}
"""Files that begin tasks which end by themselves, and that somebody waits for."""


def test_tasks_are_started_only_where_their_end_is_noticed() -> None:
    """Work without an end belongs into `background`: a task that nobody waits for dies without a word."""
    begins = {"create_task", "ensure_future", "spawn_detached"}
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and (getattr(node.func, "attr", None) in begins or getattr(node.func, "id", None) in begins)
    }
    assert found == ONCE
