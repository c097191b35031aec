"""The counter of Python calls: what it counts, and the layer that it names."""

import sys
import threading
from types import ModuleType

import pytest

from bench.cost.call_counter import CallCounter, Function, layer_of

SOURCE = """
from collections import namedtuple
Point = namedtuple("Point", "x y")
def inner(): return len("x")
def outer(): return inner(), inner()
def steps():
    yield 1
    yield 2
def make(): return Point(1, 2)
"""


@pytest.fixture
def module() -> ModuleType:
    """A module of the package guidsvc.api, as the counter sees it."""
    made = ModuleType("guidsvc.api.example")
    exec(SOURCE, made.__dict__)
    return made


@pytest.fixture
def counter() -> CallCounter:
    return CallCounter()


def counted(counter: CallCounter, work: object) -> tuple[dict[str, int], dict[str, int]]:
    """Run the work in a thread under the counter; return its Python calls and C calls by function."""
    before = sys.getprofile()
    counter.start()
    try:
        thread = threading.Thread(target=work)  # type: ignore[arg-type]  # a function of a module that is made here
        thread.start()
        thread.join()
    finally:
        threading.setprofile(None)
        sys.setprofile(before)
    python, c = counter.counts()
    return _in_example(python), _in_example(c)


def _in_example(counts: dict[Function, int]) -> dict[str, int]:
    return {each.name.removeprefix("guidsvc.api.example:"): n for each, n in counts.items() if "api" in each.layer}


def test_calls_of_all_threads_count(counter: CallCounter, module: ModuleType) -> None:
    python, c = counted(counter, module.outer)

    assert python == {"outer": 1, "inner": 2}
    assert c == {"inner": 2}


def test_resumption_of_a_generator_counts_as_a_call(counter: CallCounter, module: ModuleType) -> None:
    python, _ = counted(counter, lambda: list(module.steps()))

    assert python == {"steps": 3}


def test_named_tuple_belongs_to_the_layer_of_its_caller(counter: CallCounter, module: ModuleType) -> None:
    python, _ = counted(counter, module.make)

    assert python == {"make": 1, "Point.__new__": 1}


def test_total_is_the_sum_of_all_python_calls(counter: CallCounter, module: ModuleType) -> None:
    counted(counter, module.outer)

    assert counter.total() == sum(counter.counts()[0].values())


@pytest.mark.parametrize(
    ("module", "layer"),
    [
        ("guidsvc.store.sqlite.writer", "guidsvc.store"),
        ("guidsvc.errors", "guidsvc.errors"),
        ("guidsvc", "guidsvc"),
        ("asyncio.tasks", "asyncio"),
        ("functools", "functools"),
    ],
)
def test_layer_is_a_package_of_guidsvc_or_a_library(module: str, layer: str) -> None:
    assert layer_of(module) == layer
