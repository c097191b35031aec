"""Background tasks: supervised loops that last as long as a block, and detached tasks that outlive a request.

And threads that work for the event loop.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, ParamSpec, TypeVar

import structlog

from guidsvc.errors import GuidsvcError
from guidsvc.runtime import cancel_scope
from guidsvc.telemetry import tracing

RESTART_SECONDS = 1.0
"""Delay before failed work restarts, in seconds."""

CANCEL_AGAIN_SECONDS = 5.0
"""Time that a cancelled task has to end, before it is cancelled again."""

Result = TypeVar("Result")
P = ParamSpec("P")

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def running_in_background(work: Callable[[], Coroutine[object, object, None]]) -> AsyncIterator[None]:
    """Run the work while the block runs, and cancel it at the end. An exception is logged and the work restarts."""
    task = asyncio.create_task(_run_restarting(work))
    try:
        yield
    finally:
        await cancel_until_done(task)


async def cancel_until_done(task: "asyncio.Task[Any]") -> None:
    """Cancel a task and wait until it has ended.

    If it runs on, it is cancelled again after some seconds: a library may have caught the cancellation.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_AGAIN_SECONDS)


def spawn_restarting(work: Callable[[], Coroutine[object, object, None]]) -> "asyncio.Task[None]":
    """Start work that restarts after every exception, which is logged. The caller must cancel the task.

    The cancel scope of the current request does not apply; its trace does.
    """
    context = copy_context()
    context.run(cancel_scope.CURRENT.set, None)
    return asyncio.create_task(_run_restarting(work), context=context)


async def _run_restarting(work: Callable[[], Coroutine[object, object, None]]) -> None:
    """Run the work until it returns, and restart it after every exception."""
    while True:
        try:
            return await work()
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            _log_failure(work)  # something that the work awaited was cancelled, not the work
        except Exception:  # noqa: BLE001  # logged; the task must continue
            _log_failure(work)
        await asyncio.sleep(RESTART_SECONDS)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _log_failure(work: Callable[[], Coroutine[object, object, None]]) -> None:
    function = work.func if isinstance(work, partial) else work
    name = getattr(function, "__qualname__", repr(function))
    _log.exception("background task failed, restarting it", task=name, restart_in_seconds=RESTART_SECONDS)


def spawn_detached(work: Coroutine[object, object, Result]) -> "asyncio.Task[Result]":
    """Start work that no request waits for. Neither the cancel scope nor the trace of the current request applies."""
    context = copy_context()
    context.run(cancel_scope.CURRENT.set, None)
    context.run(tracing.CURRENT.set, None)
    return asyncio.create_task(work, context=context)


class SingleFlight(Generic[Result]):
    """Work that runs once at a time: all calls during a run share its result or its error."""

    def __init__(self, work: Callable[[], Coroutine[object, object, Result]]) -> None:
        self._work = work
        self._task: asyncio.Task[Result] | None = None

    async def run(self) -> Result:
        """Return the result of the run in progress, or of a new one. Cancelling this does not cancel the run."""
        if self._task is None:
            self._task = spawn_detached(self._work())
            self._task.add_done_callback(self._end)
        return await asyncio.shield(self._task)

    async def aclose(self) -> None:
        """Cancel the run in progress, and wait until it has ended."""
        if self._task is not None:
            await cancel_until_done(self._task)

    def _end(self, task: asyncio.Task[Result]) -> None:
        self._task = None
        _expect_domain_error(task)


class BackgroundTasks:
    """Tasks that outlive the request and are drained on shutdown."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        """Start a task that no request waits for. The work must report its own failures."""
        self._register(spawn_detached(work))

    async def run(self, work: Coroutine[object, object, Result]) -> Result:
        """Run work for a request, in its context, and return the result. The work continues if this is cancelled."""
        task = asyncio.ensure_future(work)
        task.add_done_callback(_expect_domain_error)
        self._register(task)
        return await asyncio.shield(task)

    async def drain(self) -> None:
        """Wait until all tasks have ended."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _register(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _expect_domain_error(task: asyncio.Task[Any]) -> None:
    """Mark the error of a task as seen, because its caller may be gone; log it if the domain does not know it."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, GuidsvcError):
        _log.error("background task failed", exc_info=error)


async def in_thread(work: Callable[P, Result], *arguments: P.args, **options: P.kwargs) -> Result:
    """Run the work in a thread, or on the event loop if the system has no thread left. It may then run twice."""
    call = partial(copy_context().run, partial(work, *arguments, **options))
    try:
        running = asyncio.get_running_loop().run_in_executor(None, call)
    except RuntimeError:  # the work is in the queue of the executor, whose threads may do it too
        return work(*arguments, **options)
    return await running


class WorkerThreads:
    """Threads that do work in order of arrival, and hand the results to the event loop.

    They start when needed, the first one at `start` if that is called.

    A ThreadPoolExecutor would make several times as many calls for each piece of work.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._threads: list[threading.Thread] = []
        self._open = 0  # pieces of work in progress, or waiting
        self._work: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = SimpleQueue()
        self._is_shut_down = False

    def start(self) -> None:
        """Start the first thread now, so that work never lacks one; RuntimeError if the system has none left."""
        if not self._threads:
            self._start_one()

    def run(self, work: Callable[[], Result]) -> "asyncio.Future[Result]":
        """Return a future of the result. If the future is cancelled before the work has begun, it is not done."""
        if self._is_shut_down:
            raise RuntimeError(f"the threads {self._name} have ended")
        if self._open >= len(self._threads) < self._count:
            self._start_one()
        self._open += 1
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._work.put((work, future))
        return future

    def _start_one(self) -> None:
        """Start one more thread; if the system has none left, the work waits for those that there are."""
        # A daemon, so that a process that fails to shut it down can exit.
        thread = threading.Thread(target=self._serve, name=f"{self._name}_{len(self._threads)}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if not self._threads:
                raise
        else:
            self._threads.append(thread)

    def shut_down(self) -> None:
        """Wait until all work is done and the threads have ended."""
        self._is_shut_down = True
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while (task := self._work.get()) is not None:
            work, future = task
            self._do(work, future)
            del task, work, future  # while the thread waits, it refers to nothing

    def _do(self, work: Callable[[], Any], future: "asyncio.Future[Any]") -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            result = None if future.cancelled() else work()
        except BaseException as raised:  # noqa: BLE001  # the future has it
            error = raised
        with suppress(RuntimeError):  # the loop was closed: nobody waits
            future.get_loop().call_soon_threadsafe(self._settle, future, result, error)
        del error  # otherwise the error and its traceback would form a cycle

    def _settle(self, future: "asyncio.Future[Any]", result: object, error: BaseException | None) -> None:
        self._open -= 1
        if future.done():  # it was cancelled
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
