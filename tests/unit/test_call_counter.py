"""The counter of Python calls: the calls that it counts, and the layers that it names."""

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
    """A module of the package guidsvc.api, for the counter."""
    example = ModuleType("guidsvc.api.example")
    exec(SOURCE, example.__dict__)
    return example


@pytest.fixture
def counter() -> CallCounter:
    return CallCounter()


def count_calls(counter: CallCounter, work: object) -> tuple[dict[str, int], dict[str, int]]:
    """Run the work in a thread under the counter; return its Python calls and C calls by function."""
    profile_before = sys.getprofile()
    counter.start()
    try:
        thread = threading.Thread(target=work)  # type: ignore[arg-type]  # a function of a generated module
        thread.start()
        thread.join()
    finally:
        threading.setprofile(None)
        sys.setprofile(profile_before)
    python, c = counter.counts()
    return _in_example(python), _in_example(c)


def _in_example(counts: dict[Function, int]) -> dict[str, int]:
    return {
        function.name.removeprefix("guidsvc.api.example:"): n
        for function, n in counts.items()
        if "api" in function.layer
    }


def test_calls_of_all_threads_count(counter: CallCounter, module: ModuleType) -> None:
    python, c = count_calls(counter, module.outer)

    assert python == {"outer": 1, "inner": 2}
    assert c == {"inner": 2}


def test_resumption_of_a_generator_counts_as_a_call(counter: CallCounter, module: ModuleType) -> None:
    python, _ = count_calls(counter, lambda: list(module.steps()))

    assert python == {"steps": 3}


def test_named_tuple_belongs_to_the_layer_of_its_caller(counter: CallCounter, module: ModuleType) -> None:
    python, _ = count_calls(counter, module.make)

    assert python == {"make": 1, "Point.__new__": 1}


def test_total_is_the_sum_of_all_python_calls(counter: CallCounter, module: ModuleType) -> None:
    count_calls(counter, module.outer)

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
