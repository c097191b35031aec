"""Import many records, list and export them, and import the copy into an empty service.

    python -m bench.million [--records 1000000]

It prints the time of a page at the start and 10,000 pages later, the time of a total, the speed of the streams, and the
peak memory of each service; and it checks that both exports are equal, byte by byte.
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
        with service() as second, TemporaryFile() as second_copy:
            seconds = put_in(second, iter(lambda: copy.read(_CHUNK), b""))
            print(f"back in   {records / seconds:,.0f} records/s; peak {second.peak_mib:.0f} MiB")
            take_out(second, second_copy)
            print(f"equal     {digest(copy) == digest(second_copy)}")


def lines(records: int) -> Iterator[bytes]:
    """Yield chunks of lines with records in no order of their GUIDs."""
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
    """Import lines into a service; return the seconds until the last result was read."""
    seconds: list[float] = []
    with stopwatch(seconds):
        response = ask(running.connect(), "POST", "/guid:batch", body, Content_Type=NDJSON, Prefer="return=minimal")
        while chunk := response.read(_CHUNK):
            if b'"problem"' in chunk:
                raise RuntimeError(chunk[:1000])
    return seconds[0]


def take_out(running: Running, copy: IO[bytes]) -> float:
    """Export all records to a file; return the seconds that this took."""
    seconds: list[float] = []
    with stopwatch(seconds):
        response = ask(running.connect(), "GET", "/guid?state=all", Accept=NDJSON)
        while chunk := response.read(_CHUNK):
            copy.write(chunk)
    return seconds[0]


def print_pages(running: Running, records: int) -> None:
    """Print the times of the first page and of a far one, measured in turns, and those of totals."""
    position = min(FAR * DEFAULT_PAGE_SIZE, records - DEFAULT_PAGE_SIZE) - 1
    far = render_cursor(Position(sorted(map(name, range(records)))[position]))
    connection = running.connect()
    paths = {
        "page 1": "/guid",
        f"page {position // DEFAULT_PAGE_SIZE + 2}": f"/guid?cursor={far}",
        "page 1 of a user": "/guid?user=user+7",
        "page 1 of few by expiry": "/guid?state=expired",
    }
    times: dict[str, list[float]] = {label: [] for label in paths}
    for _ in range(ROUNDS):
        for label, path in paths.items():
            with stopwatch(times[label]):
                ask(connection, "GET", path).read()
    for label, seconds in times.items():
        print(f"{label:<24}{statistics.median(seconds) * 1000:7.2f} ms, median of {ROUNDS}")
    print_totals(connection)


def print_totals(connection: HTTPConnection) -> None:
    """Print the times of totals."""
    for label, path in {
        "all": "/guid?limit=1&state=all",
        "live": "/guid?limit=1",
        "a user": "/guid?limit=1&user=user+7",
    }.items():
        times: list[float] = []
        for _ in range(5):
            with stopwatch(times):
                total = json.loads(ask(connection, "GET", path, Prefer="return=total-count").read())["total"]
        print(f"total of {label:<15}{statistics.median(times) * 1000:7.0f} ms, median of 5: {total}")


def digest(file: IO[bytes]) -> str:
    """Return a hash of a file."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # it can be read, which is enough


if __name__ == "__main__":
    main()
