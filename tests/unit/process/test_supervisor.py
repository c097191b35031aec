"""The supervisor with workers that start when the test lets them: real ones cannot be held during their start."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from guidsvc.errors import SettingsChanged, StartError
from guidsvc.process import reload as reload_module
from guidsvc.process import supervisor as supervisor_module
from guidsvc.process.supervisor import Supervisor
from guidsvc.process.worker_channel import Siblings
from tests.conftest import ExpectedLogs
from tests.support.time_limit import within

SECONDS = 60.0
"""Time limit of every wait."""


class FakeWorker:
    """A worker of a slot, which has the settings that are in force when it begins to start."""

    def __init__(self, world: "World", slot: int, required: str) -> None:
        self.slot, self.settings, self.store = slot, world.settings, "store"
        self.pid = 900_000 + len(world.workers)
        self.served_seconds = 0.0
        self.ended = asyncio.Event()
        self._required, self._may_serve = required, world.may_serve
        self._fails = slot in world.failing

    async def ready(self) -> None:
        """Wait until the test lets the worker serve."""
        await self._may_serve.wait()
        if self._fails:
            self.ended.set()
            raise StartError("a worker exited during its start")
        if self._required not in {"", self.settings}:
            self.ended.set()
            raise SettingsChanged("the settings have changed")
        self.served_seconds = 1.0

    async def wait(self) -> dict[str, object]:
        """Wait until the worker has ended."""
        await self.ended.wait()
        return {"exit_code": 0}

    async def retire(self, _: float) -> None:
        """End the worker."""
        self.ended.set()

    async def kill(self) -> None:
        """End the worker."""
        self.ended.set()

    async def kill_if_hung(self) -> None:
        """Do nothing: the worker does not hang."""


class World:
    """The settings in force, and all workers that were started."""

    def __init__(self) -> None:
        self.settings = "former"
        self.may_serve = asyncio.Event()
        """The gate of the workers that are started from now on."""
        self.may_serve.set()
        self.failing: set[int] = set()
        """The slots whose workers end during their start."""
        self.workers: list[FakeWorker] = []
        self.on_start: Callable[[int], None] = lambda _: None
        """Called with the slot before a worker starts."""

    async def start(self, slot: int, *_: object, siblings: Siblings, **__: object) -> FakeWorker:
        """Start a worker, in place of `guidsvc.process.worker.start`."""
        self.on_start(slot)
        self.workers.append(FakeWorker(self, slot, siblings.settings))
        return self.workers[-1]

    @property
    def running(self) -> dict[int, str]:
        """The settings of the workers that serve, by slot."""
        return {each.slot: each.settings for each in self.workers if each.served_seconds and not each.ended.is_set()}


class Manager:
    """A service manager, and a metrics folder."""

    watchdog_seconds = 0.0

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reloading_event, self.ready_event = asyncio.Event(), asyncio.Event()

    def ready(self) -> None:
        self.ready_event.set()

    def reloading(self) -> None:
        self.ready_event.clear()
        self.reloading_event.set()

    def stopping(self) -> None:
        """Do nothing."""

    def renew(self) -> None:
        """Do nothing."""


@asynccontextmanager
async def supervised(
    world: World, manager: Manager, monkeypatch: pytest.MonkeyPatch, *, count: int = 2
) -> AsyncIterator[Supervisor]:
    """Run a supervisor within the block, which starts once all workers serve."""
    monkeypatch.setattr(supervisor_module, "start", world.start)
    collaborators: Any = manager
    supervisor = Supervisor([[] for _ in range(count)], 1.0, collaborators, collaborators)
    running = asyncio.create_task(supervisor.run(lambda: None))
    async with within(SECONDS, "all workers"):
        await manager.ready_event.wait()
    yield supervisor
    supervisor._stop.set()
    await running


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds."""
    async with within(SECONDS, what):
        while not condition():
            await asyncio.sleep(0.01)


async def begin_reload(supervisor: Supervisor, manager: Manager) -> None:
    """Reload, and return when the reload has begun."""
    manager.reloading_event.clear()
    supervisor._renew.set()
    async with within(SECONDS, "a reload"):
        await manager.reloading_event.wait()


async def reload(supervisor: Supervisor, manager: Manager) -> None:
    """Reload, and return when the reload has ended."""
    await begin_reload(supervisor, manager)
    async with within(SECONDS, "the end of the reload"):
        await manager.ready_event.wait()


async def test_reload_replaces_a_worker_that_is_being_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs
) -> None:
    """It may have read the former settings, and be ready only after the reload has begun."""
    expected_logs.add("worker exited, restarting it")
    world, manager = World(), Manager(tmp_path)
    async with supervised(world, manager, monkeypatch) as supervisor:
        gate = world.may_serve = asyncio.Event()
        world.workers[0].ended.set()
        await until(lambda: len(world.workers) > 2, "an attempt to restart the worker")
        world.settings, world.may_serve = "new", asyncio.Event()
        world.may_serve.set()
        await begin_reload(supervisor, manager)
        gate.set()
        async with within(SECONDS, "the end of the reload"):
            await manager.ready_event.wait()
        assert world.running == {1: "new", 2: "new"}


async def test_reload_retries_a_worker_after_another_was_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs
) -> None:
    """Two workers with different settings would give different responses for good."""
    expected_logs.add("reload incomplete, retrying")
    world, manager = World(), Manager(tmp_path)

    def fail_once(slot: int) -> None:
        world.failing = {slot} if slot == 2 and len(world.workers) == 4 else set()

    async with supervised(world, manager, monkeypatch, count=3) as supervisor:
        world.settings, world.on_start = "new", fail_once
        await reload(supervisor, manager)
        assert world.running == {1: "new", 2: "new", 3: "new"}


async def test_reload_begins_again_if_the_settings_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("reload incomplete, retrying")
    world, manager = World(), Manager(tmp_path)

    def edit_again(slot: int) -> None:
        world.settings = "newer" if slot == 2 else world.settings

    async with supervised(world, manager, monkeypatch) as supervisor:
        world.settings, world.on_start = "new", edit_again
        await reload(supervisor, manager)
        assert world.running == {1: "newer", 2: "newer"}


async def test_reload_stays_with_its_settings_if_later_ones_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs
) -> None:
    """The settings change during the reload, no worker can start with them, and then the change is undone."""
    expected_logs.add("reload incomplete, retrying")
    world, manager = World(), Manager(tmp_path)

    def edit_twice(slot: int) -> None:
        attempt = len(world.workers) - 2  # 1 and 3 are of worker 1
        world.failing = {slot} if attempt == 2 else set()
        world.settings = "newer" if attempt in {1, 2} else "new"

    async with supervised(world, manager, monkeypatch) as supervisor:
        world.settings, world.on_start = "new", edit_twice
        await reload(supervisor, manager)
        assert world.running == {1: "new", 2: "new"}
        assert [each.slot for each in world.workers] == [1, 2, 1, 2, 1, 2]


async def test_reload_ends_workers_with_the_former_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs
) -> None:
    """It has retried for long enough. A worker with the former settings might let others in."""
    expected_logs.add("reload failed, ending the workers with the former settings")
    expected_logs.add("worker exited, restarting it")
    expected_logs.add("worker cannot be started")
    monkeypatch.setattr(reload_module, "RETRY_SECONDS", 0.0)
    world, manager = World(), Manager(tmp_path)
    async with supervised(world, manager, monkeypatch) as supervisor:
        world.settings, world.failing = "new", {2}
        await reload(supervisor, manager)
        assert world.running == {1: "new"}
        world.failing = set()
        await until(lambda: world.running == {1: "new", 2: "new"}, "the second worker")


async def test_reload_keeps_all_workers_if_the_first_new_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("reload failed, keeping the current workers")
    world, manager = World(), Manager(tmp_path)
    async with supervised(world, manager, monkeypatch) as supervisor:
        world.settings, world.failing = "new", {1}
        await reload(supervisor, manager)
        assert world.running == {1: "former", 2: "former"}
        assert len(world.workers) == 3


async def test_reload_waits_for_a_worker_that_is_being_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs, caplog: pytest.LogCaptureFixture
) -> None:
    """The log then says how many workers serve."""
    expected_logs.add("worker exited, restarting it")
    expected_logs.add("worker cannot be started")
    world, manager = World(), Manager(tmp_path)

    def heal(slot: int) -> None:
        world.failing = set() if slot == 1 else world.failing

    async with supervised(world, manager, monkeypatch) as supervisor:
        world.failing = {2}
        world.workers[1].ended.set()
        await until(lambda: len(world.workers) == 3, "a failed attempt to restart the worker")
        world.settings, world.on_start = "new", heal
        await reload(supervisor, manager)
        assert world.running == {1: "new", 2: "new"}
        assert "'workers': 2, 'event': 'reload finished'" in caplog.text


async def test_reload_reports_the_number_of_workers_that_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs, caplog: pytest.LogCaptureFixture
) -> None:
    expected_logs.add("worker exited, restarting it")
    expected_logs.add("worker cannot be started")
    monkeypatch.setattr(reload_module, "RETRY_SECONDS", 0.0)
    world, manager = World(), Manager(tmp_path)
    async with supervised(world, manager, monkeypatch) as supervisor:
        world.failing = {2}
        world.workers[1].ended.set()
        await until(lambda: len(world.workers) == 3, "a failed attempt to restart the worker")
        await reload(supervisor, manager)
        assert "'workers': 1, 'event': 'reload finished'" in caplog.text


async def test_first_start_ends_if_a_later_worker_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a store that the first worker holds alone is waited for."""
    world, manager = World(), Manager(tmp_path)
    world.failing = {2}
    monkeypatch.setattr(supervisor_module, "start", world.start)
    collaborators: Any = manager
    with pytest.raises(StartError, match="exited during its start"):
        await Supervisor([[], []], 1.0, collaborators, collaborators).run(lambda: None)
    assert not world.running


async def test_workers_restarted_at_once_have_the_same_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs
) -> None:
    """All workers die. The settings change after the first of the new ones has read them, and then change back."""
    expected_logs.add("worker exited, restarting it")
    expected_logs.add("worker cannot be started")
    world, manager = World(), Manager(tmp_path)

    def edit(_: int) -> None:
        world.settings = "new" if len(world.workers) == 3 else "former"

    async with supervised(world, manager, monkeypatch):
        gate = world.may_serve = asyncio.Event()
        world.on_start = edit
        for worker in world.workers[:2]:
            worker.ended.set()
        await until(lambda: len(world.workers) == 4, "attempts to restart both")
        gate.set()
        await until(lambda: len(world.running) == 2, "two workers")
        assert world.running == {1: "former", 2: "former"}
