"""docs/performance.md lists all benchmarks, with the rows and aims of their code."""

import re
from importlib.util import find_spec

from bench import cases, event_log, event_times, followers, mass_expiry, report
from tests.support.backing_servers import ROOT

OPTIONAL = {case.name for case in cases.CASES if "MongoDB" in case.name}
"""Cases that need a server that may not be installed; they may be missing."""


def rows() -> list[list[str]]:
    """Return the cells of the generated tables, without the heads."""
    document = report.DOCUMENT.read_text(encoding="utf-8")
    match = re.search(rf"{report.BEGIN}\n(.*?){report.END}", document, re.DOTALL)
    assert match is not None, f"{report.BEGIN} is missing"
    lines = [line.strip("| ").split(" | ") for line in match[1].splitlines() if line.startswith("| ")]
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


def test_docs_name_each_command_of_bench() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    documented = set(re.findall(r"python -m (bench\.\w+)", text))
    existing = {
        f"bench.{path.stem}"
        for path in (ROOT / "bench").glob("*.py")
        if path.stem != "__main__" and '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    }
    assert sorted(existing - documented) == []
    assert [name for name in sorted(documented) if find_spec(name) is None] == []


def test_aims_about_events_are_those_of_the_code() -> None:
    text = report.DOCUMENT.read_text(encoding="utf-8")
    text = text[text.index("## The event log") :].partition("\n## ")[0]
    aims = (
        f"at most {event_log.AIM} times as much",
        f"25.6 ms (the aim is {event_times.SQLITE_MS})",
        f"258 ms (the aim is {event_times.MONGO_MS})",
        f"1.87 s (the aim is {event_times.AIM_SECONDS})",
        f"25.5 ms (the aim is {followers.AIM_MS})",
        f"0.04 s (the aim is {followers.AIM_END_SECONDS})",
        f"(the aim is {mass_expiry.AIM_SECONDS} s)",
        f"(the aim is at most {mass_expiry.AIM_RATIO})",
    )
    assert [aim for aim in aims if aim not in text] == []
