"""Pytest hooks: the server, store and cache of each test, the order of the tests, and savings of time."""

import gc
import os
import re
import shutil
from collections.abc import Generator, Sequence
from itertools import count
from pathlib import Path

import hypothesis
import pytest

from tests.support.strict_loop import StrictLoop

SERVERS = ["httptools", "tornado"]
COMBINATIONS = ["sqlite+memory", "sqlite+redis", "mongo+memory", "mongo+redis"]
EACH_BACKEND = [COMBINATIONS[0], COMBINATIONS[-1]]
"""Combinations that have each store and each cache once."""
_CHOICES = {
    "server": {"both_servers": SERVERS},
    "combination": {"all_backends": COMBINATIONS, "each_backend": EACH_BACKEND},
}
"""The values of a fixture, by the marker that asks for them."""
_DEFAULTS = {"server": SERVERS[:1], "combination": COMBINATIONS[:1]}
_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 2 * 1024**3
"""Free memory required for temporary files: many times what a run needs."""
_ROOT_VARIABLE = "PYTEST_DEBUG_TEMPROOT"
_GC_THRESHOLDS = 5_000, 10, 10
"""Fewer collections than by default: they would take 4 % of the CPU time."""
_CHANGES_PER_FREEZE = 20
_MODULE_CHANGES = count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--defaults",
        action="store_true",
        help="run each test on the default server, store and cache only, and none on MongoDB",
    )


def pytest_asyncio_loop_factories() -> dict[str, type[StrictLoop]]:
    return {"strict": StrictLoop}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on the default server, store and cache, or on those that its marker selects."""
    parametrized = {name for mark in metafunc.definition.iter_markers("parametrize") for name in _names(mark.args[0])}
    needs_both = {"server", "combination"} <= {*metafunc.fixturenames} - parametrized
    if needs_both and (pairs := _pairs(metafunc)):
        metafunc.parametrize(("server", "combination"), pairs, indirect=True)
        return
    for fixture, choices in _CHOICES.items():
        if fixture in metafunc.fixturenames and fixture not in parametrized:
            chosen = [values for marker, values in choices.items() if _is_marked(metafunc, marker)]
            metafunc.parametrize(fixture, chosen[0] if chosen else _DEFAULTS[fixture], indirect=True)


def _pairs(metafunc: pytest.Metafunc) -> list[tuple[str, str]]:
    """Return the pairs of server and combination for a test that needs each, but not each pair; else nothing."""
    if _is_marked(metafunc, "each_once"):
        return [(SERVERS[0], COMBINATIONS[0]), (SERVERS[1], COMBINATIONS[0]), (SERVERS[0], COMBINATIONS[-1])]
    return []


def _is_marked(metafunc: pytest.Metafunc, marker: str) -> bool:
    has_marker = metafunc.definition.get_closest_marker(marker) is not None
    return has_marker and not metafunc.config.getoption("--defaults")


def _names(argument: str | Sequence[str]) -> Sequence[str]:
    return re.split(r",\s*", argument) if isinstance(argument, str) else argument


def pytest_configure() -> None:
    """Keep `tmp_path` in memory where the system allows it: on a disk, tests mostly wait for it to sync.

    Set no deadline for examples of Hypothesis: a busy machine stops a process for longer than the default.
    """
    hypothesis.settings.register_profile(
        "tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("tests")
    if _is_usable(_MEMORY):
        os.environ.setdefault(_ROOT_VARIABLE, str(_MEMORY))


def _is_usable(folder: Path) -> bool:
    """Whether a folder has space and programs in it can be run. In containers neither is the default."""
    return (
        os.access(folder, os.W_OK)
        and not os.statvfs(folder).f_flag & os.ST_NOEXEC
        and shutil.disk_usage(folder).free >= _ROOM_BYTES
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what --defaults excludes, and distribute the slow tests."""
    if config.getoption("--defaults"):
        excluded = [item for item in items if _is_on_mongo(item)]
        config.hook.pytest_deselected(items=excluded)
        items[:] = [item for item in items if not _is_on_mongo(item)]
    _distribute_slow_tests(items)


def _is_on_mongo(item: pytest.Item) -> bool:
    fixtures: list[str] = getattr(item, "fixturenames", [])
    callspec = getattr(item, "callspec", None)
    values = callspec.params.values() if callspec else ()
    return bool({"mongo_url", "own_mongo"} & {*fixtures}) or any(value == "mongo" for value in values)


def _distribute_slow_tests(items: list[pytest.Item]) -> None:
    """Give each worker its share of the slow tests, spread so that few run at once and none runs at the end.

    At first pytest-xdist gives each worker an equal, contiguous part of the tests.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = [item for item in items if item.get_closest_marker("slow")]
    quick = [item for item in items if not item.get_closest_marker("slow")]
    bounds = [len(quick) * worker // workers for worker in range(workers + 1)]
    shares = (_spread(slow[worker::workers], quick[slice(*bounds[worker : worker + 2])]) for worker in range(workers))
    items[:] = [item for share in shares for item in share]


def _spread(slow: list[pytest.Item], quick: list[pytest.Item]) -> list[pytest.Item]:
    """Return all tests, with the slow ones spread over the first two thirds of the quick ones."""
    step = len(quick) * 2 // 3 // max(len(slow), 1)
    spread = [test for index, item in enumerate(slow) for test in (item, *quick[index * step : (index + 1) * step])]
    return spread + quick[len(slow) * step :]


def pytest_collection() -> None:
    """Disable the garbage collector while tests are collected: there is hardly any garbage."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Exempt the modules and the tests, which stay until the end, from garbage collection."""
    _collect_and_freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    gc.enable()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    """Exempt what the tests left, such as caches of libraries, from garbage collection at some changes of the module.

    Otherwise collections, and searches for objects, take up to a second in the second half of the run. No fixture of a
    module is open at this time.
    """
    yield
    is_last_of_module = nextitem is None or nextitem.path != item.path
    if is_last_of_module and next(_MODULE_CHANGES) % _CHANGES_PER_FREEZE == 0:
        _collect_and_freeze()


def _collect_and_freeze() -> None:
    gc.collect()
    gc.freeze()
