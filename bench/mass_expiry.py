"""The expiry of very many GUIDs in one second: `python -m bench.mass_expiry [--records 1000000]`.

Records with the same expiry are written to the file of a service. From that second on all are 410; the events of their
expiries follow. Before and meanwhile other records are updated, in windows of a few seconds. The medians of the p99 of
the windows are compared, because other work of the machine may disturb one window.
"""

import argparse
import re
import sqlite3
import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from http.client import GONE
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import records, wrk
from bench.running import SERVER_CORE, Running, ask, service

WINDOW_SECONDS, CONNECTIONS = 5, 4
LEAD_SECONDS = 75
"""From the start of the filling to the expiry: a million records take about half of that, the windows the rest."""
OTHERS = 10_000
READS = 500
"""Number of records that are read at the second of their expiry."""
AIM_SECONDS, AIM_RATIO = 150, 2
"""Aims for a million records: the time of all events, and the ratio of the p99 of updates meanwhile to before."""
LIMIT_SECONDS = 600


def main() -> None:
    """Measure, and print."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--records", type=int, default=1_000_000)
    options.add_argument("--lead", type=int, default=LEAD_SECONDS, help="seconds from the start to the expiry")
    arguments = options.parse_args()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "guidsvc.db"
        settings = ("--store-url", f"sqlite:///{file}", "--warn-before", "")
        with service(*settings):
            pass
        expire = int(time.time()) + arguments.lead
        records.fill(file, arguments.records, expire, expire)
        with service(*settings, core=SERVER_CORE) as running:
            _measure(running, file, arguments.records, expire)


def _measure(running: Running, file: Path, count: int, expire: int) -> None:
    records.put_in(running, count, OTHERS)
    windows_before = _windows_until(running, count, expire)
    time.sleep(max(0.0, expire - time.time()))
    start_mib, gone = running.mib, _count_gone(running, count)
    windows_during, lags = [], [0.0]
    while (logged := _logged(file)) < count:
        if time.time() > expire + LIMIT_SECONDS:
            raise RuntimeError(f"only {logged} events were in the log after {LIMIT_SECONDS} s")
        windows_during.append(_update(running, count))
        lags.append(_lag(running))
    print(f"{count:,} GUIDs expired in one second; {gone} of {READS} reads from that second on returned 410")
    seconds = _last_append(file) - expire
    print(f"all events were in the log within {seconds:.0f} s: {count / seconds:,.0f} a second {_aim(count)}")
    print(f"the lag was {max(lags):.0f} s at most, and {_lag(running):.0f} s at the end")
    p99s = [_show("before", windows_before), _show("meanwhile", windows_during)]
    print(f"that is {p99s[1] / p99s[0]:.2f} times the p99 (aim: at most {AIM_RATIO})")
    print(f"memory: {start_mib:.0f} MiB at the expiry, {running.peak_mib:.0f} MiB at most")


def _aim(count: int) -> str:
    return f"(aim: {count:,} within {AIM_SECONDS * count / 1_000_000:.0f} s)"


def _windows_until(running: Running, first: int, end: float) -> list[wrk.Measured]:
    windows = [_update(running, first)]
    while time.time() + WINDOW_SECONDS < end:
        windows.append(_update(running, first))
    return windows


def _update(running: Running, first: int) -> wrk.Measured:
    variables = {"KEYS": OTHERS, "FIRST": first}
    return wrk.load(
        running.port, "/", WINDOW_SECONDS, script="update_others", connections=CONNECTIONS, variables=variables
    )


def _show(label: str, windows: Sequence[wrk.Measured]) -> float:
    """Print the results of the windows; return the median of their p99."""
    p50, p99, rate = (
        statistics.median([float(getattr(window, name)) for window in windows]) for name in ("p50", "p99", "rate")
    )
    failed = sum(window.failed for window in windows)
    print(f"updates {label}: p50 {p50:.2f} ms, p99 {p99:.2f} ms, {rate:,.0f} a second, {failed} failed", end="")
    print(f" ({len(windows)} windows of {WINDOW_SECONDS} s, medians)")
    return p99


def _count_gone(running: Running, count: int) -> int:
    """Read records of all parts of the file; return how many of the responses are 410."""
    connection = running.connect()
    statuses = []
    for number in range(0, count, max(1, count // READS)):
        connection.request("GET", f"/guid/{records.key(number)}")
        response = connection.getresponse()
        response.read()
        statuses.append(response.status)
    return statuses[:READS].count(GONE)


def _logged(file: Path) -> int:
    """Return the number of expiries in the log, read from its file so that the service is not disturbed."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM log WHERE kind = 'expired'").fetchone()[0])


def _last_append(file: Path) -> float:
    """Return the time at which the last expiry was appended, in Unix seconds."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        return float(connection.execute("SELECT max(appended) FROM log WHERE kind = 'expired'").fetchone()[0]) / 1000


def _lag(running: Running) -> float:
    text = ask(running.connect(), "GET", "/metrics").read().decode()
    match = re.search(r"^guidsvc_expiry_lag_seconds (\S+)", text, re.MULTILINE)
    return 0.0 if match is None else float(match[1])


if __name__ == "__main__":
    main()
