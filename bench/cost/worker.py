"""The measured process: `python -m bench.cost.worker MODE SETTINGS...` serves until its standard input ends.

It prints its port, and a line of JSON in response to each command line on its standard input. MODE is `calls`, or
`instructions` to run without the profile hook.

    stop-time   stop all clocks and timers
    total       the number of Python calls so far
    dump        call `getppid`, before which callgrind writes its counts
    counts      the Python calls and the C calls so far: pairs of lists of [layer, function, count]
"""

import asyncio
import gc
import json
import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from importlib import import_module

from bench.cost.call_counter import CallCounter, Function
from bench.cost.stopped_time import StoppableLoop, StoppableTime

LONG_PAUSE_SECONDS = 86_400.0
_MODULES = "guidsvc.bootstrap.app", "guidsvc.bootstrap.validation", "guidsvc.store.sqlite.store", "guidsvc.cache.memory"
_MODULES_OF_SETTINGS = {
    "--cache-url": "guidsvc.cache.redis.cache",
    "--tracing": "guidsvc.monitoring.request_tracer",
    "--access": "guidsvc.auth",
}


def main() -> None:
    """Serve, and obey."""
    mode, *words = sys.argv[1:]
    time, counter, loop = StoppableTime(), CallCounter(), StoppableLoop()
    time.replace_clocks()
    commands: dict[str, Callable[[], object]] = {
        "stop-time": partial(_stop_time, time, loop),
        "total": counter.total,
        "dump": os.getppid,
        "counts": lambda: [_as_json(counts) for counts in counter.counts()],
    }
    listener = threading.Thread(target=_obey, args=(commands,), daemon=True)
    if mode == "calls":
        _import_service(words)
        counter.start()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(_serve(words, listener))


def _import_service(words: list[str]) -> None:
    """Import what serves. With the hook of the counter, that would take several times as long."""
    for name in (*_MODULES, *(_MODULES_OF_SETTINGS[word] for word in words if word in _MODULES_OF_SETTINGS)):
        import_module(name)


async def _serve(words: list[str], listener: threading.Thread) -> None:
    from guidsvc.bootstrap import validation
    from guidsvc.bootstrap.app import serving
    from guidsvc.monitoring.logs import log_config, standard_streams

    settings = validation.load(words)
    with standard_streams.buffered():
        log_config.configure(settings.log_level, settings.log_format)
        async with serving(settings) as port:
            _print(port)
            listener.start()
            await asyncio.get_running_loop().create_future()


def _stop_time(time: StoppableTime, loop: StoppableLoop) -> None:
    from guidsvc.monitoring.logs import standard_streams

    stopped = threading.Event()

    def stop() -> None:
        gc.collect()
        gc.disable()
        time.is_stopped = True
        # The thread that writes log lines pauses after the first one: how many lines it takes at once is chance.
        standard_streams.PAUSE_SECONDS = LONG_PAUSE_SECONDS
        loop.stop_time()
        stopped.set()

    loop.call_soon_threadsafe(stop)
    stopped.wait()


def _obey(commands: dict[str, Callable[[], object]]) -> None:
    sys.setprofile(None)
    for line in sys.stdin:
        _print(json.dumps(commands[line.strip()]()))
    os._exit(0)


def _print(value: object) -> None:
    print(value, file=sys.__stdout__, flush=True)


def _as_json(counts: dict[Function, int]) -> list[list[object]]:
    return [[*function, count] for function, count in counts.items()]


if __name__ == "__main__":
    main()
