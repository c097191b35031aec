"""A loop whose time is virtual, and actors in it: processes that can be paused, like by SIGSTOP, and killed."""

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
    """What became of a seed."""

    seed: int
    violations: Sequence[object]
    counts: Counter[str]
    events: int


class Actor:
    """A process: what is started in it runs only while it does."""

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
        """Start something in it. An exception that ends it is a fault of the simulation: `World.end` raises it."""
        task = self._world.create_task(work, context=self._context.copy())
        task.add_done_callback(self._note_fault, context=Context())
        self._world.tasks.append(task)

    def _note_fault(self, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.dead and not self._world.over:
            self._world.faults.append(error)

    def hold(self, handle: asyncio.Handle) -> None:
        """Keep what is to be run until it goes on."""
        self._held.append(handle)

    def pause(self, seconds: float) -> None:
        """Stand still for so long."""
        self._pauses += 1
        self._world.call_later(seconds, self._resume, context=Context())

    def kill(self) -> None:
        """Never go on."""
        self.dead = True

    def let_go(self) -> None:
        """Run what has been held."""
        held, self._held = self._held, []
        self._world.go_on(held)

    def _resume(self) -> None:
        self._pauses -= 1
        if self.runs:
            self.let_go()


class Process(ABC):
    """A process of the service, which may die and be started again: each of its lives is an actor."""

    actor: Actor

    def __init__(self, world: "World", name: str) -> None:
        self._world, self.name = world, name
        self._lives = 0

    def revive(self) -> None:
        """Be started again, or for the first time."""
        self._lives += 1
        self.actor = Actor(self._world, f"{self.name}.{self._lives}")
        self.actor.start(self._live(self.actor))

    @abstractmethod
    async def _live(self, actor: Actor) -> None:
        """Start in the actor all that the process does."""


class World(asyncio.BaseEventLoop):
    """Everything happens here, in an order that the seed decides. When nothing can happen now, it is later at once."""

    raises_faults = True
    """Whether `end` raises them. The code of a mutant may raise anything, and must be found by what it does."""

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        super().__init__()
        self.seed = seed
        self.random = Random(seed)
        self.now = 0.0
        self.events = 0
        self.tasks: list[asyncio.Task[Any]] = []  # those of the dead too, which nobody else knows
        self._trace = trace
        self.over = False
        self.faults: list[BaseException] = []
        """Exceptions that ended what an actor did: then it asks no more, and nothing can be found."""
        self.actors: list[Actor] = []
        self._ready: deque[asyncio.Handle]  # both are BaseEventLoop's own
        self._scheduled: list[asyncio.TimerHandle]
        self.set_exception_handler(lambda *_: None)  # of tasks that died with their process

    def time(self) -> float:
        return self.now

    def draw(self) -> str:
        """Return a random name."""
        return f"{self.random.getrandbits(64):016x}"

    def note(self, *what: object) -> None:
        """Print what happens, where that is wanted."""
        if self._trace:
            print(f"{self.now:10.4f}", *what)

    def go_on(self, handles: list[asyncio.Handle]) -> None:
        """Run these as soon as possible."""
        self._ready.extend(handles)

    def outside(self, seconds: float, what: Callable[..., object], *arguments: Any) -> None:
        """Do something later that no process does: the network, or a server."""
        self.call_later(seconds, what, *arguments, context=Context())

    async def run_far(
        self, network: Network, work: Callable[[], Any], late: Exception, seconds: float = 30.0, straggle: float = 0.0
    ) -> Any:
        """Do something at a server, and return what it returns; raise `late` if no answer comes in time."""
        answer: asyncio.Future[Any] = self.create_future()
        there = network.there()
        if there is not None:
            self.outside(there + straggle, self._at_server, network, work, answer)
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError as error:
            raise late from error

    def _at_server(self, network: Network, work: Callable[[], Any], answer: asyncio.Future[Any]) -> None:
        done = work()
        if asyncio.iscoroutine(done):
            task = self.create_task(done, context=Context())
            task.add_done_callback(lambda _: self._on_the_way_back(network, task.result(), answer), context=Context())
        else:
            self._on_the_way_back(network, done, answer)

    def _on_the_way_back(self, network: Network, done: Any, answer: asyncio.Future[Any]) -> None:
        back = network.back()
        if back is not None:
            self.outside(back, self._arrived, done, answer)

    def _arrived(self, done: Any, answer: asyncio.Future[Any]) -> None:
        if not answer.done():
            answer.set_result(done)

    def end(self) -> None:
        """End all that has not ended, so that nothing is left of it."""
        self.over = True
        for actor in self.actors:
            actor.let_go()
        while left := asyncio.all_tasks(self):
            for task in left:
                task.cancel()
            self.run_until_complete(asyncio.wait(left, timeout=60))
        self.close()
        if self.faults and self.raises_faults:
            raise self.faults[0]

    def _run_once(self) -> None:  # what BaseEventLoop does, without a selector and with a time of its own
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
