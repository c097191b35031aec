"""guidsvc compared with other servers on the same work in one run: `python -m bench`.

    python -m bench [--rounds 5] [--seconds 3] [--only create] [--write]

It starts all servers on one core and the load generator on the other. Each round runs each case once and checks the
responses. It prints medians, ranges, and ratios and costs with their aims. `--write` writes the report into
docs/performance.md.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from tempfile import TemporaryDirectory

from bench import cases, records, report, wrk
from bench.cases import Bare, Case
from bench.contenders.fixed import BODY
from bench.report import Result
from bench.running import ROOT, SERVER_CORE, Running, ask
from bench.servers import INSTALL, all_servers

KEYS = 100_000
"""Records in each service."""


def main() -> None:
    """Measure, print, and write the report with `--write`."""
    options = _options()
    if shutil.which("wrk") is None:
        sys.exit(f"wrk is not installed: {INSTALL['wrk']}")
    with all_servers(os.environ.get("GUIDSVC_BENCH_MONGO_URL")) as (running, redis_url, left_out):
        chosen = [case for case in cases.CASES if case.server in running and options.only in case.name]
        _fill(running)
        results = _measure(running, chosen, redis_url, options)
    text = "\n".join(_report(results, left_out, options))
    print(text)
    if options.write:
        report.write(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--only", default="", help="only cases with this in their names")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/performance.md")
    return parser.parse_args()


def _fill(running: Mapping[str, Running]) -> None:
    """Create the records, and check that each server returns the same record."""
    for name, server in running.items():
        if name.startswith("guidsvc"):
            records.put_in(server, 0, KEYS)
            records.put_in(server, KEYS, cases.STREAMED, user=cases.STREAM_USER)
            body = b'{"user": "Cylance, Inc.", "expire": "4102444800"}'
            ask(
                server.connect(), "PUT", cases.PATH, body, Content_Type="application/json", **server.auth_headers
            ).read()
        body_read = ask(server.connect(), "GET", cases.PATH, **server.auth_headers).read()
        if b"".join(body_read.split()) != b"".join(BODY.split()):
            raise RuntimeError(f"{name} returns {body_read!r}")


def _measure(
    running: Mapping[str, Running], chosen: list[Case], redis_url: str, options: argparse.Namespace
) -> dict[str, list[Result]]:
    results: dict[str, list[Result]] = defaultdict(list)
    for case in chosen:  # to warm up
        _round(running[case.server], case, min(options.seconds, 1))
    for number in range(options.rounds):
        for bare in cases.BARE:
            if options.only in bare.name:
                results[bare.name].append(_bare(bare, redis_url, options.seconds))
        for case in chosen:
            results[case.name].append(_round(running[case.server], case, options.seconds))
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    return results


def _round(server: Running, case: Case, seconds: int) -> Result:
    variables = {"KEYS": KEYS} | dict(case.variables) | dict(case.prepare(server) if case.prepare else {})
    headers, cpu_before = {**server.auth_headers, **case.headers}, server.cpu_seconds
    load = wrk.load(server.port, case.path, seconds, script=case.script, headers=headers, variables=variables)
    cpu_spent = server.cpu_seconds - cpu_before
    if load.failed != (load.requests if case.is_error else 0):
        raise RuntimeError(f"{case.name}: {load.failed} of {load.requests} failed")
    work = load.requests * case.per_request
    return Result(load.rate * case.per_request, load.p50, load.p99, cpu_spent / work * 1e6)


def _bare(bare: Bare, redis_url: str, seconds: int) -> Result:
    command = ["taskset", "-c", SERVER_CORE, sys.executable, "-m"]
    with TemporaryDirectory(dir=".") as folder:
        if bare.kind == "redis":
            command += ["bench.contenders.bare_redis", redis_url, str(seconds)]
        else:
            command += ["bench.contenders.bare_sqlite", folder, str(seconds), bare.kind]
        process = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    rate = float(process.stdout)
    connections = wrk.CONNECTIONS if bare.kind == "redis" else 1
    return Result(rate, 1e3 * connections / rate, float("nan"), float("nan"))


def _report(results: Mapping[str, list[Result]], left_out: list[str], options: argparse.Namespace) -> Iterator[str]:
    command = f"python -m bench --rounds {options.rounds} --seconds {options.seconds}"
    yield f"`{command}`: medians, {wrk.CONNECTIONS} connections."
    yield ""
    yield from report.table_of_rates(results)
    yield ""
    yield from report.table_of_ratios(results)
    yield ""
    yield from report.table_of_costs(results)
    if left_out:
        yield ""
        yield "Left out: " + "; ".join(left_out) + "."


if __name__ == "__main__":
    main()
