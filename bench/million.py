"""Many records go in, are listed, stream out, and go back into an empty service.

    python -m bench.million [--records 1000000]

Prints what a page costs at the beginning and 10,000 pages on, what a total costs, how fast the streams are, and the
peak of memory of each service; and checks that what comes back is equal, byte by byte.
"""

import argparse
import hashlib
import json
import statistics
from collections.abc import Iterator
from http.client import HTTPConnection
from tempfile import TemporaryFile
from typing import IO

from bench.running import Running, ask, service, stopwatch
from guidsvc.domain.commands import DEFAULT_PAGE_SIZE
from guidsvc.domain.commands.list_parameters import Position, render_cursor

NDJSON = "application/x-ndjson"
FAR = 10_000
"""The page that is compared with the first."""
ROUNDS = 200
_CHUNK = 1 << 20


def main() -> None:
    """Measure, and print."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--records", type=int, default=1_000_000)
    records = options.parse_args().records
    with service() as first, TemporaryFile() as copy:
        idle = first.peak_mib
        seconds = put_in(first, lines(records))
        print(
            f"in        {records} records, {records / seconds:,.0f}/s; peak {first.peak_mib:.0f} MiB ({idle:.0f} idle)"
        )
        print_pages(first, records)
        seconds = take_out(first, copy)
        print(f"out       {records / seconds:,.0f} records/s; peak {first.peak_mib:.0f} MiB")
        copy.seek(0)
        with service() as second, TemporaryFile() as again:
            seconds = put_in(second, iter(lambda: copy.read(_CHUNK), b""))
            print(f"back in   {records / seconds:,.0f} records/s; peak {second.peak_mib:.0f} MiB")
            take_out(second, again)
            print(f"equal     {digest(copy) == digest(again)}")


def lines(records: int) -> Iterator[bytes]:
    """Yield records to put, in no order of their GUIDs, some at a time."""
    chunk: list[str] = []
    for number in range(records):
        record = {"guid": name(number), "user": f"user {number % 100}", "metadata": {"number": number}}
        chunk.append(json.dumps(record))
        if len(chunk) == 1000 or number == records - 1:  # noqa: PLR2004  # some at a time
            yield ("\n".join(chunk) + "\n").encode()
            chunk = []


def name(number: int) -> str:
    """Return a GUID that looks random."""
    return hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest().upper()


def put_in(running: Running, body: Iterator[bytes]) -> float:
    """Put lines into a service; return how many seconds it took until the last result was read."""
    taken: list[float] = []
    with stopwatch(taken):
        response = ask(running.connect(), "POST", "/guid:batch", body, Content_Type=NDJSON, Prefer="return=minimal")
        while chunk := response.read(_CHUNK):
            if b'"problem"' in chunk:
                raise RuntimeError(chunk[:1000])
    return taken[0]


def take_out(running: Running, copy: IO[bytes]) -> float:
    """Stream all records into a file; return how many seconds it took."""
    taken: list[float] = []
    with stopwatch(taken):
        response = ask(running.connect(), "GET", "/guid?state=all", Accept=NDJSON)
        while chunk := response.read(_CHUNK):
            copy.write(chunk)
    return taken[0]


def print_pages(running: Running, records: int) -> None:
    """Compare the first page with a far one, in turns; and tell what a total costs."""
    place = min(FAR * DEFAULT_PAGE_SIZE, records - DEFAULT_PAGE_SIZE) - 1
    far = render_cursor(Position(sorted(map(name, range(records)))[place]))
    connection = running.connect()
    paths = {
        "page 1": "/guid",
        f"page {place // DEFAULT_PAGE_SIZE + 2}": f"/guid?cursor={far}",
        "page 1 of a user": "/guid?user=user+7",
        "page 1 of few by expiry": "/guid?state=expired",
    }
    taken: dict[str, list[float]] = {label: [] for label in paths}
    for _ in range(ROUNDS):
        for label, path in paths.items():
            with stopwatch(taken[label]):
                ask(connection, "GET", path).read()
    for label, seconds in taken.items():
        print(f"{label:<24}{statistics.median(seconds) * 1000:7.2f} ms, median of {ROUNDS}")
    print_totals(connection)


def print_totals(connection: HTTPConnection) -> None:
    """Tell what a total costs."""
    for label, path in {
        "all": "/guid?limit=1&state=all",
        "live": "/guid?limit=1",
        "a user": "/guid?limit=1&user=user+7",
    }.items():
        taken: list[float] = []
        for _ in range(5):
            with stopwatch(taken):
                total = json.loads(ask(connection, "GET", path, Prefer="return=total-count").read())["total"]
        print(f"total of {label:<15}{statistics.median(taken) * 1000:7.0f} ms, median of 5: {total}")


def digest(file: IO[bytes]) -> str:
    """Return what tells one file from another."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # it reads, which is enough


if __name__ == "__main__":
    main()
