"""An event loop with virtual time, and actors in it: processes that can be paused, as by SIGSTOP, and killed."""

import asyncio
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from heapq import heappop
from random import Random
from typing import Any

from tests.simulation.network import Network

_ACTOR: ContextVar["Actor | None"] = ContextVar("actor", default=None)


@dataclass
class Result:
    """The result of a seed."""

    seed: int
    violations: Sequence[object]
    counts: Counter[str]
    events: int


class Actor:
    """A process: its tasks run only while it is neither paused nor dead."""

    def __init__(self, world: "World", name: str) -> None:
        self._world = world
        self._context = copy_context()
        self._context.run(_ACTOR.set, self)
        self._held: list[asyncio.Handle] = []
        self._pauses = 0
        self.name = name
        self.dead = False
        world.actors.append(self)

    @property
    def runs(self) -> bool:
        """Whether it is neither paused nor dead."""
        return not self._pauses and not self.dead

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        """Start a task in it. An exception that ends the task is a fault of the simulation: `World.end` raises it."""
        task = self._world.create_task(work, context=self._context.copy())
        task.add_done_callback(self._note_fault, context=Context())
        self._world.tasks.append(task)

    def _note_fault(self, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.dead and not self._world.over:
            self._world.faults.append(error)

    def hold(self, handle: asyncio.Handle) -> None:
        """Keep a callback until the process continues."""
        self._held.append(handle)

    def pause(self, seconds: float) -> None:
        """Pause for this time."""
        self._pauses += 1
        self._world.call_later(seconds, self._resume, context=Context())

    def kill(self) -> None:
        """Stop for good."""
        self.dead = True

    def let_go(self) -> None:
        """Run the callbacks that were kept."""
        handles, self._held = self._held, []
        self._world.go_on(handles)

    def _resume(self) -> None:
        self._pauses -= 1
        if self.runs:
            self.let_go()


class Process(ABC):
    """A process of the service, which may die and be restarted: each of its lives is an actor."""

    actor: Actor

    def __init__(self, world: "World", name: str) -> None:
        self._world, self.name = world, name
        self._lives = 0

    def revive(self) -> None:
        """Start or restart the process."""
        self._lives += 1
        self.actor = Actor(self._world, f"{self.name}.{self._lives}")
        self.actor.start(self._live(self.actor))

    @abstractmethod
    async def _live(self, actor: Actor) -> None:
        """Start all tasks of the process in the actor."""


class World(asyncio.BaseEventLoop):
    """The event loop. The seed decides the order of events; when none is due, time jumps to the next one."""

    raises_faults = True
    """Whether `end` raises faults. The code of a mutant may raise anything; it must be found by its violations."""

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        super().__init__()
        self.seed = seed
        self.random = Random(seed)
        self.now = 0.0
        self.events = 0
        self.tasks: list[asyncio.Task[Any]] = []  # also the tasks of dead processes, to which nothing else refers
        self._trace = trace
        self.over = False
        self.faults: list[BaseException] = []
        """Exceptions that ended a task of an actor, which then sends no more requests, so violations are missed."""
        self.actors: list[Actor] = []
        self._ready: deque[asyncio.Handle]  # both belong to BaseEventLoop
        self._scheduled: list[asyncio.TimerHandle]
        self.set_exception_handler(lambda *_: None)  # tasks that died with their process

    def time(self) -> float:
        return self.now

    def draw(self) -> str:
        """Return a random name."""
        return f"{self.random.getrandbits(64):016x}"

    def note(self, *what: object) -> None:
        """Print an event if tracing is on."""
        if self._trace:
            print(f"{self.now:10.4f}", *what)

    def go_on(self, handles: list[asyncio.Handle]) -> None:
        """Run these callbacks as soon as possible."""
        self._ready.extend(handles)

    def outside(self, seconds: float, what: Callable[..., object], *arguments: Any) -> None:
        """Schedule a callback that belongs to no process, but to the network or a server."""
        self.call_later(seconds, what, *arguments, context=Context())

    async def run_far(
        self, network: Network, work: Callable[[], Any], late: Exception, seconds: float = 30.0, straggle: float = 0.0
    ) -> Any:
        """Run the work at a server, and return its result; raise `late` if no reply arrives in time."""
        reply: asyncio.Future[Any] = self.create_future()
        delay = network.there()
        if delay is not None:
            self.outside(delay + straggle, self._at_server, network, work, reply)
        try:
            async with asyncio.timeout(seconds):
                return await reply
        except TimeoutError as error:
            raise late from error

    def _at_server(self, network: Network, work: Callable[[], Any], reply: asyncio.Future[Any]) -> None:
        result = work()
        if asyncio.iscoroutine(result):
            task = self.create_task(result, context=Context())
            task.add_done_callback(lambda _: self._send_reply(network, task.result(), reply), context=Context())
        else:
            self._send_reply(network, result, reply)

    def _send_reply(self, network: Network, result: Any, reply: asyncio.Future[Any]) -> None:
        delay = network.back()
        if delay is not None:
            self.outside(delay, self._receive_reply, result, reply)

    def _receive_reply(self, result: Any, reply: asyncio.Future[Any]) -> None:
        if not reply.done():
            reply.set_result(result)

    def end(self) -> None:
        """Cancel and finish all remaining tasks."""
        self.over = True
        for actor in self.actors:
            actor.let_go()
        while remaining := asyncio.all_tasks(self):
            for task in remaining:
                task.cancel()
            self.run_until_complete(asyncio.wait(remaining, timeout=60))
        self.close()
        if self.faults and self.raises_faults:
            raise self.faults[0]

    def _run_once(self) -> None:  # as in BaseEventLoop, without a selector and with virtual time
        if not self._ready:
            timer = heappop(self._scheduled)
            timer._scheduled = False  # type: ignore[attr-defined]
            self.now = max(self.now, timer.when())
            self._ready.append(timer)
        for _ in range(len(self._ready)):
            handle = self._ready.popleft()
            if handle.cancelled():
                continue
            actor = handle._context.get(_ACTOR)  # type: ignore[attr-defined]
            if actor is None or actor.runs or self.over:
                self.events += 1
                handle._run()
            else:
                actor.hold(handle)
