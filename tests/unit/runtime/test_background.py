"""Background tasks: a failed task is logged and restarted, and ends with its block."""

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


class FailingWork:
    """Work that raises each fault once, and then runs until it is cancelled."""

    def __init__(self, *faults: BaseException) -> None:
        self._faults = [*faults]
        self.is_running = asyncio.Event()
        self.has_ended = False

    async def keep(self) -> None:
        if self._faults:
            raise self._faults.pop()
        self.is_running.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.has_ended = True


@pytest.mark.parametrize("fault", [OSError(24, "Too many open files"), KeyError("x"), asyncio.CancelledError()])
async def test_background_task_continues_after_a_logged_fault(
    fault: BaseException, caplog: pytest.LogCaptureFixture, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(FAULT)
    work = FailingWork(fault, fault)
    async with asyncio.timeout(30), running_in_background(work.keep):
        await work.is_running.wait()
    assert work.has_ended
    lines = [logged.getMessage() for logged in caplog.records if FAULT in logged.getMessage()]
    assert len(lines) == 2
    assert all("FailingWork.keep" in line and "exc_info" in line for line in lines)


async def test_restarting_task_outlives_the_scope_of_its_request(expected_logs: ExpectedLogs) -> None:
    """A request may exceed its deadline, which must not end a task that outlives it."""
    expected_logs.add(FAULT)
    work, scope = FailingWork(KeyError("x")), CancelScope()

    async def keep() -> None:
        cancel_scope.checkpoint()
        await work.keep()

    token = cancel_scope.CURRENT.set(scope)
    scope.cancel(is_disconnected=False)
    task = spawn_restarting(keep)
    cancel_scope.CURRENT.reset(token)
    async with asyncio.timeout(30):
        await work.is_running.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert work.has_ended


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
    work = FailingWork(ValueError())
    async with asyncio.timeout(30), running_in_background(work.keep):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not work.is_running.is_set()


async def test_resources_are_released_though_another_release_fails(
    monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("a fault of one")
    monkeypatch.setattr("guidsvc.server.protocol.read_throttle.SECONDS", 0.0)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    released = asyncio.Event()

    class Listener:
        def __init__(self, *, fails: bool) -> None:
            self._fails = fails

        def resume_reading(self) -> None:
            if self._fails:
                raise RuntimeError("a fault of one")
            released.set()

    throttle = ReadThrottle()
    throttle.add(Listener(fails=True))
    throttle.add(Listener(fails=False))
    async with asyncio.timeout(30):
        await released.wait()


PACKAGE = Path(guidsvc.__file__).parent
FILES_WITH_AWAITED_TASKS = {
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
"""Files that start tasks which end by themselves and are awaited."""


def test_tasks_are_started_only_where_their_end_is_noticed() -> None:
    """Endless work belongs in `background`: a task that is never awaited would fail silently."""
    starters = {"create_task", "ensure_future", "spawn_detached"}
    files_with_tasks = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and (getattr(node.func, "attr", None) in starters or getattr(node.func, "id", None) in starters)
    }
    assert files_with_tasks == FILES_WITH_AWAITED_TASKS


async def test_block_ends_though_a_library_catches_a_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CANCEL_AGAIN_SECONDS", 0.01)
    is_running, cancellations = asyncio.Event(), list[asyncio.CancelledError]()

    async def work() -> None:
        is_running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            cancellations.append(error)
        await asyncio.Event().wait()

    async with asyncio.timeout(30), running_in_background(work):
        await is_running.wait()
    assert len(cancellations) == 1
