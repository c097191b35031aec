"""The report of `python -m bench`, as Markdown tables."""

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from bench import cases
from bench.running import ROOT

DOCUMENT = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- python -m bench -->", "<!-- end -->"


class Result(NamedTuple):
    """The result of one round: rate per second, latencies in ms, and CPU time per request in µs, or NaN."""

    rate: float
    p50: float
    p99: float
    cpu: float


Results = Mapping[str, Sequence[Result]]


def table_of_rates(results: Results) -> Iterator[str]:
    """Yield a row for each case, with the medians of its rounds."""
    yield "| what | a second, median (range) | p50, p99 in ms | CPU µs each |"
    yield "|---|---|---|---|"
    for name, case_results in results.items():
        rate, p50, p99, cpu = (statistics.median(values) for values in zip(*case_results, strict=True))
        rates = [result.rate for result in case_results]
        last_columns = f"{p50:.2f}, {p99:.2f} | {cpu:.1f}" if cpu == cpu else f"{p50:.2f} | "  # noqa: PLR0124  # not NaN
        yield f"| {name} | {rate:,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) | {last_columns} |"


def table_of_ratios(results: Results) -> Iterator[str]:
    """Yield a row for each ratio whose sides were both measured."""
    yield "| ratio of medians | aim | measured |"
    yield "|---|---|---|"
    for name, of, to, aim in cases.ratios():
        rates_compared = [_rate(results, other) for other in to if other in results]
        if of in results and rates_compared:
            ratio = _rate(results, of) / max(rates_compared)
            yield f"| {name} | {aim:g} | {ratio:.2f}{'' if ratio >= aim else ' (missed)'} |"


def table_of_costs(results: Results) -> Iterator[str]:
    """Yield a row for each cost with an aim, scaled by the cost of the limit on this machine."""
    if cases.LIMIT not in results:
        return
    scale = _cpu(results, cases.LIMIT) / cases.LIMIT_COST
    yield f"| CPU µs each | aim, times {scale:.2f}: the limit costs {cases.LIMIT_COST * scale:.1f} here | measured |"
    yield "|---|---|---|"
    for name, aim in cases.costs():
        if name in results:
            cpu = _cpu(results, name)
            yield f"| {name} | {aim * scale:.1f} | {cpu:.1f}{'' if cpu <= aim * scale else ' (missed)'} |"


def write(text: str) -> None:
    """Replace the report in docs/performance.md."""
    document = DOCUMENT.read_text(encoding="utf-8")
    pattern = re.compile(rf"{BEGIN}.*?{END}", re.DOTALL)
    DOCUMENT.write_text(pattern.sub(lambda _: f"{BEGIN}\n{text}\n{END}", document, count=1), encoding="utf-8")


def _rate(results: Results, name: str) -> float:
    return statistics.median(result.rate for result in results[name])


def _cpu(results: Results, name: str) -> float:
    return statistics.median(result.cpu for result in results[name])
