"""The supervisor with workers that start when the test lets them: real ones cannot be held during their start."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from guidsvc.errors import StartError
from guidsvc.process import supervisor as supervisor_module
from guidsvc.process.supervisor import Supervisor
from tests.conftest import ExpectedLogs
from tests.support.time_limit import within

SECONDS = 60.0
"""Time limit of every wait."""


class FakeWorker:
    """A worker of a slot, which has the settings that are in force when it begins to start."""

    def __init__(self, world: "World", slot: int, required: str) -> None:
        self.slot, self.settings, self.pid = slot, world.settings, 900_000 + len(world.workers)
        self.served_seconds = 0.0
        self.ended = asyncio.Event()
        self._required, self._may_serve = required, world.may_serve

    async def ready(self) -> None:
        """Wait until the test lets the worker serve."""
        await self._may_serve.wait()
        if self._required not in {"", self.settings}:
            self.ended.set()
            raise StartError("the settings have changed")
        self.served_seconds = 1.0

    async def wait(self) -> dict[str, object]:
        """Wait until the worker has ended."""
        await self.ended.wait()
        return {"exit_code": 0}

    async def retire(self, _: float) -> None:
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
        self.workers: list[FakeWorker] = []

    async def start(self, slot: int, *_: object, settings: str, **__: object) -> FakeWorker:
        """Start a worker, in place of `guidsvc.process.worker.start`."""
        self.workers.append(FakeWorker(self, slot, settings))
        return self.workers[-1]

    @property
    def running(self) -> dict[int, str]:
        """The settings of the workers that have not ended, by slot."""
        return {each.slot: each.settings for each in self.workers if not each.ended.is_set()}


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


async def test_reload_replaces_a_worker_that_is_being_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs
) -> None:
    """It may have read the former settings, and be ready only after the reload has begun."""
    expected_logs.add("worker exited, restarting it")
    world, manager = World(), Manager(tmp_path)
    monkeypatch.setattr(supervisor_module, "start", world.start)
    collaborators: Any = manager
    supervisor = Supervisor([[], []], 1.0, collaborators, collaborators)
    running = asyncio.create_task(supervisor.run(lambda: None))
    async with within(SECONDS, "two workers"):
        await manager.ready_event.wait()

    gate = world.may_serve = asyncio.Event()
    world.workers[0].ended.set()
    async with within(SECONDS, "an attempt to restart the worker"):
        while len(world.workers) == 2:
            await asyncio.sleep(0.01)
    world.settings, world.may_serve = "new", asyncio.Event()
    world.may_serve.set()
    supervisor._renew.set()
    async with within(SECONDS, "a reload"):
        await manager.reloading_event.wait()
    gate.set()
    async with within(SECONDS, "the end of the reload"):
        await manager.ready_event.wait()

    assert world.running == {1: "new", 2: "new"}
    supervisor._stop.set()
    await running
