"""The measured paths: the kinds of requests, and the settings of the service that they are sent to."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from bench import records

WARM_UP = 10
"""Single requests before the runs."""
REQUESTS = 50
"""Requests of the shorter run; the longer one has twice as many."""
BATCHES, PER_BATCH = 5, 100
READ, UPDATED, DELETED = 300, 310, 480
"""The record that is read; the first that is updated, and deleted."""
LINES = 100
"""Records of the shorter stream, and lines of the shorter batch of lines."""
PRESENT = 800
"""Records that exist from the start; their keys are numbered from 0."""
_LINE_BATCHES = (20_000, LINES), (30_000, LINES), (40_000, 2 * LINES)
"""The first key of each batch of lines, and its number of lines."""
USERS = {"short": LINES, "long": 2 * LINES}
"""How many of the first records these users have."""
_JSON = "Content-Type: application/json"
_BODY = '{"user": "Cylance, Inc."}'
_MISSING = 4_000_000_000


class Server(NamedTuple):
    """The settings of a service. `{redis}` in them stands for the URL of a Redis."""

    settings: Sequence[str] = ("--no-access-log",)
    has_key: bool = False
    """Whether requests have an API key."""
    has_tls: bool = False
    """Whether the service is reached over TLS."""
    environment: Mapping[str, str] = MappingProxyType({})

    @property
    def has_redis(self) -> bool:
        """Whether the service needs a Redis."""
        return any("{redis}" in word for word in self.settings)


_TRACED = "--no-access-log", "--tracing", "otlp"
_UNSENT = {
    "OTEL_BSP_SCHEDULE_DELAY": "86400000",
    "OTEL_BSP_MAX_QUEUE_SIZE": "100000",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "100000",
}
"""No span is sent while requests are counted: a thread of its own does that."""
_UNLIKELY = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1e-12"}
"""A ratio costs what it costs at 1 %, but none of the requests that are counted is sampled."""
SERVERS: Mapping[str, Server] = {
    "default": Server(),
    "access log": Server(("--access-log", "--log-format", "json")),
    "API key": Server(("--no-access-log", "--access", "keys", "--rate-limit", "10000000/second"), has_key=True),
    "TLS": Server(has_tls=True),
    "Redis": Server(("--no-access-log", "--cache-url", "{redis}")),
    "Redis without L1": Server(("--no-access-log", "--cache-url", "{redis}", "--cache-size", "0")),
    "no cache": Server(("--no-access-log", "--cache-size", "0")),
    "traces": Server(_TRACED, environment=_UNSENT),
    "traces not sampled": Server(_TRACED, environment=_UNLIKELY),
}


class Plan(NamedTuple):
    """The requests of two runs, and those before them, which fill caches.

    The cost of a unit of work is the difference between the runs, divided by the `units` that the longer has more.
    """

    warm_up: Sequence[bytes]
    short: Sequence[bytes]
    long: Sequence[bytes]
    units: int


class Path(NamedTuple):
    """A kind of request. `plan` gets the header lines that every request has."""

    name: str
    plan: Callable[[Sequence[str]], Plan]
    server: str = "default"
    expects_error: bool = False
    uses_thread: bool = False
    """Whether another thread than that of the event loop does a part of the work."""


def message(method: str, target: str, lines: Sequence[str] = (), body: str = "") -> bytes:
    """Return a request as bytes."""
    length = [f"Content-Length: {len(body.encode())}"] if body else []
    head = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", "User-Agent: bench", *lines, *length]
    return "".join(f"{line}\r\n" for line in [*head, ""]).encode() + body.encode()


def _repeated(make: Callable[[int, Sequence[str]], bytes], lines: Sequence[str]) -> Plan:
    """Plan single requests. `make` gets the number of the request, which never repeats in the runs of a path."""
    requests = [make(number, lines) for number in range(WARM_UP + 3 * REQUESTS)]
    return _split(requests, WARM_UP, REQUESTS)


def _split(requests: Sequence[bytes], warm_up: int, short: int, units: int = 1) -> Plan:
    """Plan these requests; each is this number of units of work."""
    end = warm_up + short
    return Plan(requests[:warm_up], requests[warm_up:end], requests[end:], short * units)


def _read(target: str, number: int, lines: Sequence[str]) -> bytes:  # noqa: ARG001  # the same for each number
    return message("GET", target, lines)


def _read_of_client(number: int, lines: Sequence[str]) -> bytes:
    """Return a read whose client has a trace of its own, which it does not sample."""
    return message("GET", _record(READ), [*lines, f"traceparent: 00-{number + 1:032x}-{number + 1:016x}-00"])


def _record(number: int) -> str:
    return f"/guid/{records.key(number)}"


def _create(number: int, lines: Sequence[str]) -> bytes:
    return message("PUT", _record(PRESENT + number), [*lines, _JSON], _BODY)


def _generate(extra: Sequence[str], number: int, lines: Sequence[str]) -> bytes:
    keys = [f"{line}{number}" for line in extra]
    return message("POST", "/guid", [*lines, _JSON, *keys], _BODY)


def _update(number: int, lines: Sequence[str]) -> bytes:
    return message("PUT", _record(UPDATED + number), [*lines, _JSON], f'{{"user": "user {number}"}}')


def _heartbeat(target: str, number: int, lines: Sequence[str]) -> bytes:  # noqa: ARG001  # the same for each number
    return message("POST", f"{target}/renewal", [*lines, _JSON], '{"ttl": 60, "if_below": 30}')


def _renew(body: str, number: int, lines: Sequence[str]) -> bytes:
    return message("POST", f"{_record(UPDATED + number)}/renewal", [*lines, _JSON], body)


def _delete(number: int, lines: Sequence[str]) -> bytes:
    return message("DELETE", _record(DELETED + number), lines)


def _batches(lines: Sequence[str]) -> Plan:
    requests = [_batch(10_000 + number * PER_BATCH, lines) for number in range(1 + 3 * BATCHES)]
    return _split(requests, 1, BATCHES, PER_BATCH)


def _batch(first: int, lines: Sequence[str]) -> bytes:
    operations = ",".join(_operation(number) for number in range(first, first + PER_BATCH))
    return message("POST", "/guid:batch", [*lines, _JSON], f'{{"operations": [{operations}]}}')


def _operation(number: int) -> str:
    return f'{{"guid": "{records.key(number)}", "user": "Cylance, Inc."}}'


def _streams(lines: Sequence[str]) -> Plan:
    short, long = (message("GET", f"/guid?user={user}", [*lines, f"Accept: {records.NDJSON}"]) for user in USERS)
    return Plan([long], [short], [long], LINES)


def _batches_of_lines(lines: Sequence[str]) -> Plan:
    warm_up, short, long = (_lines(number, count, lines) for number, count in _LINE_BATCHES)
    return Plan([warm_up], [short], [long], LINES)


def _lines(first: int, count: int, lines: Sequence[str]) -> bytes:
    body = "".join(_operation(number) + "\n" for number in range(first, first + count))
    return message("POST", "/guid:batch", [*lines, f"Content-Type: {records.NDJSON}"], body)


def present(lines: Sequence[str]) -> bytes:
    """Return the request that creates the records that exist from the start."""
    body = "".join(f'{{"guid": "{records.key(n)}", "user": "{_user_of(n)}"}}\n' for n in range(PRESENT))
    return message("POST", "/guid:batch", [*lines, f"Content-Type: {records.NDJSON}"], body)


def _user_of(number: int) -> str:
    if number < LINES:
        return "short"
    return "long" if number < 3 * LINES else "Cylance, Inc."


_CACHED = partial(_repeated, partial(_read, _record(READ)))
_DEMAND = partial(_repeated, partial(_read, f"{_record(READ)}?valid_for=60"))
_HEARTBEAT = partial(_repeated, partial(_heartbeat, _record(READ)))
_KEY = "Idempotency-Key: key-"
_NOT_MODIFIED = "If-None-Match: *"
PATHS = [
    Path("read from L1", _CACHED),
    Path("read from L1, with access log", _CACHED, "access log"),
    Path("read from L1, with an API key", _CACHED, "API key"),
    Path("read from L1, over TLS", _CACHED, "TLS"),
    Path("read from L1, under redis://", _CACHED, "Redis"),
    Path("read from Redis", _CACHED, "Redis without L1"),
    Path("read from SQLite", _CACHED, "no cache"),
    Path("404", partial(_repeated, partial(_read, _record(_MISSING))), expects_error=True),
    Path("304", lambda lines: _CACHED([*lines, _NOT_MODIFIED])),
    Path("create", partial(_repeated, _create), uses_thread=True),
    Path("create, generated GUID", partial(_repeated, partial(_generate, ())), uses_thread=True),
    Path("create, with an Idempotency-Key", partial(_repeated, partial(_generate, (_KEY,))), uses_thread=True),
    Path("update", partial(_repeated, _update), uses_thread=True),
    Path("delete", partial(_repeated, _delete), uses_thread=True),
    Path("page of 50", partial(_repeated, partial(_read, "/guid")), uses_thread=True),
    Path(f"batch of {PER_BATCH}, per operation", _batches, uses_thread=True),
    Path("batch of lines, per line", _batches_of_lines, uses_thread=True),
    Path("stream of records, per record", _streams, uses_thread=True),
    Path("/version", partial(_repeated, partial(_read, "/version"))),
    Path("lease, read with valid_for", _DEMAND),
    Path("lease, renewal that writes nothing", _HEARTBEAT),
    Path("lease, renewal that writes", partial(_repeated, partial(_renew, '{"ttl": 5000000}')), uses_thread=True),
    Path("read from L1, with traces", _CACHED, "traces"),
    Path("read from L1, with traces, not sampled", _CACHED, "traces not sampled"),
    Path("create, with traces", partial(_repeated, _create), "traces", uses_thread=True),
    Path(
        "read from L1, with traces, not sampled by its client",
        partial(_repeated, _read_of_client),
        "traces not sampled",
    ),
    Path("lease, read with valid_for, with traces, not sampled", _DEMAND, "traces not sampled"),
    Path("lease, renewal that writes nothing, with traces, not sampled", _HEARTBEAT, "traces not sampled"),
    Path("create, with traces, not sampled", partial(_repeated, _create), "traces not sampled", uses_thread=True),
]


def by_server(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Group paths by the service that they need."""
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(path.server, []).append(path)
    return groups
