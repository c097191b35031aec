"""The tables in docs/performance.md have the rows that `python -m bench` prints, and its aims."""

import re

from bench import cases, report

OPTIONAL = {case.name for case in cases.CASES if "MongoDB" in case.name}
"""Cases that need a server which not everybody has; they may be missing."""


def rows() -> list[list[str]]:
    """Return the cells of the tables that the command writes, without the heads."""
    document = report.DOCUMENT.read_text(encoding="utf-8")
    found = re.search(rf"{report.BEGIN}\n(.*?){report.END}", document, re.DOTALL)
    assert found is not None, f"{report.BEGIN} is missing"
    lines = [line.strip("| ").split(" | ") for line in found[1].splitlines() if line.startswith("| ")]
    return [cells for cells in lines if not cells[0].startswith(("what", "ratio", "CPU"))]


def test_bench_rows_are_those_of_the_code() -> None:
    names = [bare.name for bare in cases.BARE] + [case.name for case in cases.CASES if case.name not in OPTIONAL]
    expected = names + [ratio.name for ratio in cases.ratios()] + [cost.of for cost in cases.costs()]
    assert [cells[0] for cells in rows() if cells[0] not in OPTIONAL] == expected


def test_bench_aims_are_those_of_the_code() -> None:
    ratios = {ratio.name: f"{ratio.aim:g}" for ratio in cases.ratios()}
    assert {cells[0]: cells[1] for cells in rows() if cells[0] in ratios} == ratios


def test_bench_aims_name_rows_that_exist() -> None:
    names = {bare.name for bare in cases.BARE} | {case.name for case in cases.CASES}
    assert {name for ratio in cases.ratios() for name in (ratio.of, *ratio.to)} <= names
    assert {cost.of for cost in cases.costs()} <= names
