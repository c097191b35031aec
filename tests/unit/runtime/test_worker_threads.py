"""Worker threads for the event loop."""

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator

import pytest

from guidsvc.runtime.background import WorkerThreads

COUNT = 3


@pytest.fixture
async def threads() -> AsyncIterator[WorkerThreads]:
    workers = WorkerThreads(COUNT, "test")
    yield workers
    await asyncio.to_thread(workers.shut_down)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("test_")]


async def test_result_and_error_of_work_reach_its_future(threads: WorkerThreads) -> None:
    def fail() -> None:
        raise ValueError("wrong")

    assert await threads.run(lambda: 7) == 7
    with pytest.raises(ValueError, match="wrong"):
        await threads.run(fail)
    assert (await threads.run(threading.current_thread)).name.startswith("test_")


async def test_threads_start_only_when_all_are_busy(threads: WorkerThreads) -> None:
    for _ in range(2 * COUNT):
        await threads.run(int)
    assert len(threads._threads) == 1

    barrier = threading.Barrier(COUNT)
    await asyncio.gather(*(threads.run(barrier.wait) for _ in range(COUNT)), threads.run(int))
    assert len(threads._threads) == COUNT


async def test_shutdown_waits_until_all_work_is_done() -> None:
    threads, results = WorkerThreads(1, "test"), list[int]()
    may_finish = threading.Event()
    running = threads.run(may_finish.wait)
    queued = threads.run(lambda: results.append(1))
    shutdown = asyncio.create_task(asyncio.to_thread(threads.shut_down))
    await asyncio.sleep(0)
    may_finish.set()
    await asyncio.gather(running, queued, shutdown)

    assert results == [1]


async def test_result_for_a_cancelled_future_is_dropped(threads: WorkerThreads) -> None:
    may_finish = threading.Event()
    future = threads.run(may_finish.wait)
    future.cancel()
    may_finish.set()

    assert await threads.run(lambda: 7) == 7
    assert threads._open == 0


async def test_idle_threads_keep_nothing_alive(threads: WorkerThreads) -> None:
    class Result:
        """An object with weak references."""

    result = await threads.run(Result)
    reference = weakref.ref(result)
    await threads.run(lambda: None)
    del result
    gc.collect()

    assert reference() is None
