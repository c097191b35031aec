"""guidsvc beside others, on the same work, in one run: `python -m bench`.

    python -m bench [--rounds 5] [--seconds 3] [--only create] [--write]

Everything is started here, servers on one core and load on another. In each round all take their turn; replies are
checked; printed are medians, spreads, and the ratios that are aimed at. `--write` puts that into docs/performance.md.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from tempfile import TemporaryDirectory
from typing import NamedTuple

from bench import records, wrk
from bench.contenders.fixed import BODY, GUID
from bench.running import ROOT, SERVER_CORE, Running, ask
from bench.servers import INSTALL, all_servers

KEYS = 100_000
"""Records in each service."""
DOCUMENT = ROOT / "docs" / "performance.md"
PATH = f"/guid/{GUID}"
UNKNOWN = "/guid/" + "F" * 32
PER_BATCH = 100
_new = count(10_000_000, 1_000_000)
"""Where keys begin that no record has yet."""


class Case(NamedTuple):
    """Some work, for one of the servers."""

    name: str
    server: str
    path: str = PATH
    script: str | None = None
    headers: Mapping[str, str] = {}
    variables: Mapping[str, object] = {}
    fails: bool = False
    """Whether every answer is an error."""
    per_request: int = 1
    """How much of what is counted is in a request."""
    prepare: Callable[[Running], Mapping[str, object]] | None = None
    """Makes ready for a round, and returns more variables."""


class Result(NamedTuple):
    """What a round measured: of it how much a second, in ms, and µs of the processor for each."""

    rate: float
    p50: float
    p99: float
    cpu: float


class Target(NamedTuple):
    """A ratio that is aimed at."""

    what: str
    of: str
    to: str
    least: float


def _fresh(_: Running) -> Mapping[str, object]:
    return {"FIRST": next(_new)}


def _doomed(running: Running) -> Mapping[str, object]:
    """Create records to be deleted."""
    first = next(_new)
    records.put_in(running, first + 1, 60_000)
    return {"FIRST": first}


def _writes(server: str, label: str) -> Iterator[Case]:
    yield Case(f"create, {label}", server, script="create", prepare=_fresh)
    yield Case(f"update, {label}", server, script="update")
    yield Case(f"delete, {label}", server, script="delete", prepare=_doomed)
    yield Case(f"batches of {PER_BATCH}, {label}", server, script="batch", prepare=_fresh, per_request=PER_BATCH)
    yield Case(f"95 % reads, 5 % updates, {label}", server, script="mix", variables={"WRITES": 0.05})
    yield Case(f"50 % reads, 50 % updates, {label}", server, script="mix", variables={"WRITES": 0.5})


def _handlers(server: str, label: str) -> Iterator[Case]:
    yield Case(f"404, {label}", server, UNKNOWN, fails=True)
    yield Case(f"/version, {label}", server, "/version")
    yield Case(f"304, {label}", server, headers={"If-None-Match": "*"})
    yield Case(f"a page of 50, {label}", server, "/guid")


OURS, BY_TORNADO = "guidsvc", "guidsvc --server tornado"
GUARDED = f"read from L1, {OURS}, with a key"
CASES = [
    Case("a fixed answer, asyncio + httptools + uvloop: the limit", "limit"),
    Case("a file, nginx", "nginx"),
    Case("a fixed answer, Starlette on uvicorn", "starlette"),
    Case("a fixed answer, Tornado's own server", "tornado"),
    Case("read through Redis, FastAPI on uvicorn", "fastapi"),
    Case(f"read from L1, {OURS}", "ours"),
    Case(f"read from L1, {OURS}, with its access log", "ours, logging"),
    Case(GUARDED, "ours, guarded"),
    Case(f"read from L1, {BY_TORNADO}", "ours, Tornado"),
    Case(f"read from L1 under redis://, {OURS}", "ours, Redis"),
    Case(f"read from Redis, {OURS}", "ours, Redis without L1", script="read", variables={"KEYS": 1000}),
    Case(f"read from SQLite, {OURS}", "ours, no cache", script="read"),
    Case(f"read from MongoDB, {OURS}", "ours, MongoDB", script="read"),
    *_handlers("ours", OURS),
    *_handlers("ours, Tornado", BY_TORNADO),
    *_writes("ours", OURS),
    *_writes("ours, Tornado", BY_TORNADO),
]
BARE = {kind: f"{kind}, a bare loop over sqlite3, a transaction each" for kind in ("create", "update")}


def _targets() -> Iterator[Target]:
    limit, nginx, starlette, tornado, fastapi, ours = [case.name for case in CASES[:6]]
    yield Target("L1 read to the limit", ours, limit, 0.75)
    yield Target("L1 read to nginx", ours, nginx, 0.8)
    yield Target("L1 read to Starlette", ours, starlette, 3)
    yield Target("L1 read to Tornado's own server", ours, tornado, 15)
    yield Target("L1 read to FastAPI + Redis", ours, fastapi, 15)
    yield Target("L1 read with a key to one without access control", GUARDED, ours, 0.8)
    yield Target("L1 read under redis:// to memory://", f"read from L1 under redis://, {OURS}", ours, 0.9)
    yield Target("Redis read to FastAPI + Redis", f"read from Redis, {OURS}", fastapi, 3)
    yield Target("SQLite read to FastAPI + Redis", f"read from SQLite, {OURS}", fastapi, 4)
    for kind, bare in BARE.items():
        yield Target(f"{kind} to a bare loop over sqlite3", f"{kind}, {OURS}", bare, 1.5)
    for case in CASES:
        if case.server == "ours" and case.name != ours:
            yield Target(f"{case.name} to the same by Tornado's server", case.name, f"{case.name} --server tornado", 2)


def main() -> None:
    """Measure, and print, and write if that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--only", default="", help="only what has this in its name")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/performance.md")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit(f"wrk is what asks: {INSTALL['wrk']}")
    with all_servers(os.environ.get("GUIDSVC_BENCH_MONGO_URL")) as (running, left_out):
        cases = [case for case in CASES if case.server in running and options.only in case.name]
        _fill(running)
        results = _measure(running, cases, options.rounds, options.seconds, options.only)
    text = "\n".join(_report(results, left_out, options))
    print(text)
    if options.write:
        _write(text)


def _fill(running: Mapping[str, Running]) -> None:
    """Put the records in, and read what is to be read."""
    for name, server in running.items():
        if name.startswith("ours"):
            records.put_in(server, 0, KEYS)
            body = b'{"user": "Cylance, Inc.", "expire": "4102444800"}'
            ask(server.connect(), "PUT", PATH, body, Content_Type="application/json", **server.shown).read()
        found = ask(server.connect(), "GET", PATH, **server.shown).read()
        if b"".join(found.split()) != b"".join(BODY.split()):
            raise RuntimeError(f"{name} answers {found!r}")


def _measure(
    running: Mapping[str, Running], cases: list[Case], rounds: int, seconds: int, only: str
) -> dict[str, list[Result]]:
    results: dict[str, list[Result]] = defaultdict(list)
    for case in cases:  # to warm up
        _round(running[case.server], case, min(seconds, 1))
    for number in range(rounds):
        for kind, name in BARE.items():
            if only in name:
                results[name].append(_bare(kind, seconds))
        for case in cases:
            results[case.name].append(_round(running[case.server], case, seconds))
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return results


def _round(server: Running, case: Case, seconds: int) -> Result:
    variables = {"KEYS": KEYS} | dict(case.variables) | dict(case.prepare(server) if case.prepare else {})
    headers, before = {**server.shown, **case.headers}, server.cpu_seconds
    found = wrk.load(server.port, case.path, seconds, script=case.script, headers=headers, variables=variables)
    spent = server.cpu_seconds - before
    if found.failed != (found.requests if case.fails else 0):
        raise RuntimeError(f"{case.name}: {found.failed} of {found.requests} failed")
    done = found.requests * case.per_request
    return Result(found.rate * case.per_request, found.p50, found.p99, spent / done * 1e6)


def _bare(kind: str, seconds: int) -> Result:
    with TemporaryDirectory(dir=".") as folder:
        command = ["taskset", "-c", SERVER_CORE, sys.executable, "-m", "bench.contenders.bare_sqlite"]
        done = subprocess.run(
            [*command, folder, str(seconds), kind], cwd=ROOT, check=True, capture_output=True, text=True
        )
    rate = float(done.stdout)
    return Result(rate, 1e3 / rate, float("nan"), float("nan"))


def _report(results: Mapping[str, list[Result]], left_out: list[str], options: argparse.Namespace) -> Iterator[str]:
    rounds = f"medians of {options.rounds} rounds of {options.seconds:g} s each"
    yield f"`python -m bench`: {rounds}, {wrk.CONNECTIONS} connections."
    yield ""
    yield "| what | a second, median (range) | p50, p99 in ms | CPU µs each |"
    yield "|---|---|---|---|"
    for name, found in results.items():
        rate, p50, p99, cpu = (statistics.median(values) for values in zip(*found, strict=True))
        rates = [result.rate for result in found]
        more = f"{p50:.2f}, {p99:.2f} | {cpu:.1f}" if cpu == cpu else f"{p50:.2f} | "  # noqa: PLR0124  # not NaN
        yield f"| {name} | {rate:,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) | {more} |"
    yield ""
    yield "| ratio of medians | aim | measured |"
    yield "|---|---|---|"
    for what, of, to, least in _targets():
        if of in results and to in results:
            ratio = statistics.median(r.rate for r in results[of]) / statistics.median(r.rate for r in results[to])
            yield f"| {what} | {least:g} | {ratio:.2f}{'' if ratio >= least else ' (missed)'} |"
    if left_out:
        yield ""
        yield "Left out: " + "; ".join(left_out) + "."


def _write(text: str) -> None:
    begin, end = "<!-- python -m bench -->", "<!-- end -->"
    document = DOCUMENT.read_text(encoding="utf-8")
    pattern = re.compile(rf"{begin}.*?{end}", re.DOTALL)
    DOCUMENT.write_text(pattern.sub(lambda _: f"{begin}\n{text}\n{end}", document, count=1), encoding="utf-8")


if __name__ == "__main__":
    main()
