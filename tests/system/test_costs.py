"""The Python calls of a request on each path must not exceed the checked-in table.

They do not depend on the machine or its load. `python -m bench.cost --write` records a rise that is intended.
"""

import pytest

from bench.cost import calls, table
from bench.cost.paths import PATHS, Path, by_server

GROUPS = by_server(PATHS)


def test_every_path_has_costs_in_the_table() -> None:
    assert list(table.load()) == [path.name for path in PATHS]


@pytest.mark.slow
@pytest.mark.parametrize("paths", GROUPS.values(), ids=GROUPS)
def test_python_calls_of_a_request_do_not_rise(paths: list[Path], redis_url: str) -> None:
    stored = table.load()

    rise_texts = [calls.rise(path.name, stored[path.name], cost) for path, cost in calls.measure(paths, redis_url)]

    rises = [rise for rise in rise_texts if rise is not None]
    assert not rises, "\n".join(rises)
