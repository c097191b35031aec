"""Counts the Python calls of a process by layer and function, with the profile hook of the interpreter.

A call is an entry into a frame: the resumption of a coroutine or generator counts, too. Calls of functions in C count
apart, for the layer that calls them.
"""

import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType
from typing import NamedTuple

OWN_PACKAGE = "bench.cost"
"""The measuring code, which is not counted."""
_NAMED_TUPLE = "namedtuple_"
"""Start of the module name of the code that `collections.namedtuple` generates."""


class Function(NamedTuple):
    """A function, and the layer that it belongs to."""

    layer: str
    name: str


def layer_of(module: str) -> str:
    """Return the layer of a module: a package of guidsvc, such as `guidsvc.api`, or the name of a library."""
    first, _, rest = module.partition(".")
    return f"{first}.{rest.partition('.')[0]}" if first == "guidsvc" and rest else first


class CallCounter:
    """Counts the calls in the current thread and in all threads that start later."""

    def __init__(self) -> None:
        self._functions: dict[int, tuple[CodeType, Function | None]] = {}  # the code stays alive: its id is the key
        self._python_counts: list[dict[Function, int]] = []
        self._c_counts: list[dict[Function, int]] = []

    def start(self) -> None:
        """Start to count."""
        threading.setprofile(self._start_in_thread)
        sys.setprofile(self._new_hook())

    def counts(self) -> tuple[dict[Function, int], dict[Function, int]]:
        """Return the Python calls and the C calls so far, by function. Any thread may ask."""
        return _sum(self._python_counts), _sum(self._c_counts)

    def total(self) -> int:
        """Return the number of Python calls so far."""
        return sum(sum(counts.values()) for counts in list(self._python_counts))

    def _start_in_thread(self, frame: FrameType, event: str, argument: object) -> None:
        hook = self._new_hook()
        sys.setprofile(hook)
        hook(frame, event, argument)

    def _new_hook(self) -> Callable[[FrameType, str, object], None]:
        python_counts: dict[Function, int] = {}
        c_counts: dict[Function, int] = {}
        self._python_counts.append(python_counts)
        self._c_counts.append(c_counts)

        def hook(frame: FrameType, event: str, _: object) -> None:
            counts = python_counts if event == "call" else c_counts if event == "c_call" else None
            if counts is not None:
                function = self._function_of(frame)
                if function is not None:
                    counts[function] = counts.get(function, 0) + 1

        return hook

    def _function_of(self, frame: FrameType) -> Function | None:
        """Return the function of a frame; None for the measuring code."""
        code = frame.f_code
        if id(code) not in self._functions:
            self._functions[id(code)] = (code, _describe(frame))
        function = self._functions[id(code)][1]
        if function is None or function.layer or frame.f_back is None:
            return function
        caller = self._function_of(frame.f_back)
        return caller and Function(caller.layer, function.name)


def _describe(frame: FrameType) -> Function | None:
    """Return the function of a frame. A constructor that `namedtuple` made has no layer: it belongs to its callers."""
    module = str(frame.f_globals.get("__name__", "?"))
    if module.startswith(_NAMED_TUPLE):
        return Function("", f"{module.removeprefix(_NAMED_TUPLE)}.__new__")
    if module.startswith(OWN_PACKAGE):
        return None
    return Function(layer_of(module), f"{module}:{frame.f_code.co_qualname}")


def _sum(parts: list[dict[Function, int]]) -> dict[Function, int]:
    total: dict[Function, int] = {}
    for part in list(parts):
        for function, count in part.copy().items():
            total[function] = total.get(function, 0) + count
    return total
