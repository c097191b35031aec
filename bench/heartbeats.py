"""Writes that are caused by a hundred clients with a heartbeat each second: `python -m bench.heartbeats`.

    python -m bench.heartbeats [--clients 100] [--seconds 65] [--ttl 60] [--if-below 30] [SETTINGS...]

Each client has a lease and a connection of its own. It prints the writes of each lease, and how often one was written.
"""

import argparse
import asyncio
import json
import statistics
import time
from itertools import pairwise

from bench import records
from bench.running import service

_PERIOD_SECONDS = 1.0


def main() -> None:
    """Measure, and print."""
    options, settings = _options()
    with service(*settings) as running:
        writes = asyncio.run(_clients(running.port, options))
    _print(options, writes)


def _options() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(prog="python -m bench.heartbeats", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--clients", type=int, default=100, help="clients, each with a lease of its own")
    parser.add_argument("--seconds", type=float, default=65.0, help="how long they send heartbeats")
    parser.add_argument("--ttl", type=int, default=60, help="the life of a lease in seconds")
    parser.add_argument("--if-below", type=int, default=30, help="renew only if fewer seconds are left")
    return parser.parse_known_args()


async def _clients(port: int, options: argparse.Namespace) -> list[list[float]]:
    phases = (number / options.clients * _PERIOD_SECONDS for number in range(options.clients))
    return await asyncio.gather(*(_client(port, number, phase, options) for number, phase in enumerate(phases)))


async def _client(port: int, number: int, phase: float, options: argparse.Namespace) -> list[float]:
    """Create a lease at its own moment of the first second, and send a heartbeat each second from then on.

    Return the times of the heartbeats that caused a write.
    """
    await asyncio.sleep(phase)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    path, writes = f"/guid/{records.key(number)}", list[float]()
    start = time.monotonic()
    await _ask(reader, writer, "PUT", path, {"user": "bench", "ttl": options.ttl})
    heartbeat = {"ttl": options.ttl, "if_below": options.if_below}
    for count in range(1, int(options.seconds / _PERIOD_SECONDS) + 1):
        await asyncio.sleep(start + count * _PERIOD_SECONDS - time.monotonic())
        sent_at = time.monotonic()
        renewal = await _ask(reader, writer, "POST", f"{path}/renewal", heartbeat)
        if renewal["renewed"]:
            writes.append(sent_at)
    writer.close()
    return writes


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, path: str, members: dict[str, object]
) -> dict[str, object]:
    """Send a request; return the JSON of its response."""
    body = json.dumps(members)
    writer.write(
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    text = await reader.readexactly(int(head.partition("Content-Length: ")[2].split("\r\n", 1)[0]))
    if head.split()[1] not in {"200", "201"}:
        raise RuntimeError(f"{method} {path}: {head.split()[1]} {text!r}")
    document: dict[str, object] = json.loads(text)
    return document


def _print(options: argparse.Namespace, writes: list[list[float]]) -> None:
    counts = [len(times) for times in writes]
    beats = options.clients * int(options.seconds / _PERIOD_SECONDS)
    print(f"{beats:,} heartbeats of {options.clients} clients in {options.seconds:.0f} s: {sum(counts)} writes")
    print(f"writes of a lease: {min(counts)} to {max(counts)}")
    pauses = [later - earlier for times in writes for earlier, later in pairwise(times)]
    if pauses:
        mean = statistics.fmean(pauses)
        print(f"seconds between two writes of a lease: {mean:.1f} ({min(pauses):.1f} to {max(pauses):.1f})")
        print(f"writes per lease and minute: {60 / mean:.2f}")


if __name__ == "__main__":
    main()
