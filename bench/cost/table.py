"""The checked-in table of costs, by version of Python, and its form in docs/performance.md."""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path as File

from bench.cost.calls import Cost, Counts
from bench.cost.paths import PATHS
from bench.running import ROOT

FILE = File(__file__).with_name("costs.json")
DOCUMENT = ROOT / "docs" / "performance.md"
COMMAND = "python -m bench.cost --write"
_BEGIN, _END = "<!-- python -m bench.cost -->", "<!-- end -->"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
"""The running version of Python: each makes other calls."""
_DOCUMENTED = "3.11"
"""The version of Python whose costs are in the document."""

Table = Mapping[str, Cost]


class MissingCosts(Exception):
    """The table has no costs for this version of Python."""

    def __init__(self) -> None:
        super().__init__(f"bench/cost/costs.json has no costs for Python {PYTHON}; add them: {COMMAND}")


def load(python: str = PYTHON) -> Table:
    """Return the costs by path. Raise MissingCosts if there are none for a version of Python."""
    stored = json.loads(FILE.read_text(encoding="utf-8"))
    if python not in stored:
        raise MissingCosts
    return {name: Cost(**members) for name, members in stored[python].items()}


def save(costs: Table) -> None:
    """Store the costs of paths for this version of Python, in the order of PATHS, and update the document."""
    stored = json.loads(FILE.read_text(encoding="utf-8"))
    rows = stored.get(PYTHON, {})
    for name, cost in costs.items():
        rows[name] = {"python": cost.python, "c": cost.c, "instructions": cost.instructions}
    stored[PYTHON] = {path.name: rows[path.name] for path in PATHS if path.name in rows}
    FILE.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    DOCUMENT.write_text(document_with(render(load(_DOCUMENTED))), encoding="utf-8")


def document_with(text: str) -> str:
    """Return the document with this text as its table of costs."""
    document = DOCUMENT.read_text(encoding="utf-8")
    pattern = re.compile(rf"{_BEGIN}.*?{_END}", re.DOTALL)
    return pattern.sub(lambda _: f"{_BEGIN}\n{text}\n{_END}", document, count=1)


def render(costs: Table) -> str:
    """Return the table as Markdown."""
    return "\n".join(_lines(costs))


def _lines(costs: Table) -> Iterator[str]:
    yield "| path | Python calls | C calls | instructions | Python calls by layer |"
    yield "|---|---|---|---|---|"
    for name, cost in costs.items():
        instructions = "" if cost.instructions is None else f"{cost.instructions:,}"
        yield f"| {name} | {cost.total:,.0f} | {sum(cost.c.values()):,.0f} | {instructions} | {_layers(cost.python)} |"


def _layers(counts: Counts) -> str:
    """List the layers with at least one call in a request; packages of guidsvc without its name."""
    return ", ".join(f"{layer.removeprefix('guidsvc.')} {count:.0f}" for layer, count in counts.items() if count >= 1)
