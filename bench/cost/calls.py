"""The Python calls and C calls of a request, by layer."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from bench.cost.paths import SERVERS, Path, by_server
from bench.cost.service import Service, measured_service

TOLERANCE = 0.03
"""By how much the Python calls of a path may exceed the table."""
MAX_SERVICES = 4
"""Maximum number of services that are started to measure a group of paths."""
Counts = Mapping[str, float]
"""Calls of a request by layer, or by function."""


class Cost(NamedTuple):
    """The calls of one request on a path."""

    python: Counts
    c: Counts
    instructions: int | None = None
    """The number of instructions; None if they were not counted."""
    functions: Counts = {}
    """The Python calls by function; not in the table."""

    @property
    def total(self) -> float:
        """The number of Python calls."""
        return sum(self.python.values())


def measure(paths: Iterable[Path], redis_url: str) -> Iterator[tuple[Path, Cost]]:
    """Yield the cost of each path.

    A service whose time was stopped while something waited for a timer may not answer. Then another is started, at most
    MAX_SERVICES for a group of paths.
    """
    for name, group in by_server(paths).items():
        remaining, services = list(group), 0
        while remaining:
            services += 1
            try:
                with measured_service(SERVERS[name], redis_url, "calls") as service:
                    while remaining:
                        cost = _cost(service, remaining[0])
                        yield remaining.pop(0), cost
            except TimeoutError:
                if services == MAX_SERVICES:
                    raise


def _cost(service: Service, path: Path) -> Cost:
    plan = path.plan(service.lines)
    _count(service, path, plan.warm_up)
    short, long = _count(service, path, plan.short), _count(service, path, plan.long)
    python, c = (_difference(*pair, plan.units) for pair in zip(short, long, strict=True))
    return Cost(_by_layer(python), _by_layer(c), functions={name: count for (_, name), count in python.items()})


_Functions = dict[tuple[str, str], float]


def _count(service: Service, path: Path, requests: Sequence[bytes]) -> list[_Functions]:
    before = _counts(service)
    for request in requests:
        service.send(request, expects_error=path.expects_error)
        service.settle()
    after = _counts(service)
    return [_difference(*pair, 1) for pair in zip(before, after, strict=True)]


def _counts(service: Service) -> list[_Functions]:
    service.settle()
    return [{(layer, name): count for layer, name, count in part} for part in service.command("counts")]


def _difference(less: _Functions, more: _Functions, units: int) -> _Functions:
    counts = {key: round((more.get(key, 0) - less.get(key, 0)) / units, 2) for key in less | more}
    return {key: count for key, count in counts.items() if count}


def _by_layer(functions: _Functions) -> Counts:
    layers: dict[str, float] = {}
    for (layer, _), count in functions.items():
        layers[layer] = round(layers.get(layer, 0.0) + count, 2)
    return dict(sorted(layers.items(), key=lambda item: (-item[1], item[0])))


def rise(name: str, before: Cost, now: Cost) -> str | None:
    """Return a description of how the Python calls of a path have risen beyond the tolerance, by layer; else None."""
    if now.total <= before.total * (1 + TOLERANCE):
        return None
    changes = {layer: now.python.get(layer, 0) - before.python.get(layer, 0) for layer in now.python}
    risen = sorted(((change, layer) for layer, change in changes.items() if change > 0), reverse=True)
    where = ", ".join(f"{layer} {change:+.2f}" for change, layer in risen)
    return f"{name}: {now.total:.2f} Python calls instead of {before.total:.2f}: {where}"
