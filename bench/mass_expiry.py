"""What happens when very many GUIDs expire in one second: `python -m bench.mass_expiry [--records 1000000]`.

Records with one expiry are put into the file of a service. At that second all are 410; the events of their expiries
follow. Meanwhile others are updated, a few at a time, and the p99 of that is compared with the time before.
"""

import argparse
import re
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import records, wrk
from bench.running import SERVER_CORE, Running, ask, service

SECONDS, CONNECTIONS = 10, 4
LEAD_SECONDS = 60
"""From the start of the filling to the expiry; a million records take less than half of that."""
OTHERS = 10_000
STEP_SECONDS = 0.25


def main() -> None:
    """Measure, and print."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--records", type=int, default=1_000_000)
    count = options.parse_args().records
    with TemporaryDirectory() as folder:
        file = Path(folder) / "guidsvc.db"
        settings = ("--store-url", f"sqlite:///{file}", "--warn-before", "")
        with service(*settings):
            pass
        expire = int(time.time()) + LEAD_SECONDS
        records.fill(file, count, expire, expire)
        with service(*settings, core=SERVER_CORE) as running:
            _measure(running, count, expire)


def _measure(running: Running, count: int, expire: int) -> None:
    records.put_in(running, count, OTHERS)
    before = _update(running, count)
    time.sleep(max(0.0, expire - time.time()))
    start_mib, shown = running.mib, _status(running, records.key(0))
    during = _update(running, count)
    while _logged(running) < count:
        time.sleep(STEP_SECONDS)
    seconds = time.time() - expire
    print(f"{count:,} GUIDs expired in one second; a read at that second returned {shown} (410 expected)")
    print(
        f"all events were in the log {seconds:.0f} s later: {count / seconds:,.0f} a second (aim: 1,000,000 in 150 s)"
    )
    print(f"updates before: p99 {before.p99:.2f} ms, {before.rate:,.0f} a second")
    print(f"updates meanwhile: p99 {during.p99:.2f} ms, {during.rate:,.0f} a second")
    print(f"that is {during.p99 / before.p99:.2f} times the p99 (aim: at most 2)")
    print(f"memory: {start_mib:.0f} MiB at the expiry, {running.peak_mib:.0f} MiB at most")


def _update(running: Running, first: int) -> wrk.Measured:
    variables = {"KEYS": OTHERS, "FIRST": first}
    return wrk.load(running.port, "/", SECONDS, script="update_others", connections=CONNECTIONS, variables=variables)


def _status(running: Running, guid: str) -> int:
    connection = running.connect()
    connection.request("GET", f"/guid/{guid}")
    return connection.getresponse().status


def _logged(running: Running) -> int:
    text = ask(running.connect(), "GET", "/metrics").read().decode()
    found = re.search(r'^guidsvc_events_total{type="guid.expired"} (\S+)', text, re.MULTILINE)
    return 0 if found is None else int(float(found[1]))


if __name__ == "__main__":
    main()
