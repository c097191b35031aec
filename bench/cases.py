"""The cases of `python -m bench`, and its ratios and costs with their aims."""

from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import NamedTuple

from bench import records
from bench.contenders.fixed import GUID
from bench.running import Running

PATH = f"/guid/{GUID}"
UNKNOWN = "/guid/" + "F" * 32
PER_BATCH = 100
STREAMED = 1000
"""Records of `STREAM_USER`, and so lines in each stream."""
STREAM_USER = "stream"
HEARTBEAT = "a heartbeat that writes nothing"
SERVICE, BY_TORNADO = "guidsvc", "guidsvc --server tornado"
_new = count(10_000_000, 1_000_000)
"""First numbers of keys that no record has yet."""


class Case(NamedTuple):
    """A kind of load for one of the servers."""

    name: str
    server: str
    path: str = PATH
    script: str | None = None
    headers: Mapping[str, str] = {}
    variables: Mapping[str, object] = {}
    is_error: bool = False
    """Whether every response is an error."""
    per_request: int = 1
    """The units of work in one request."""
    prepare: Callable[[Running], Mapping[str, object]] | None = None
    """Prepares a round, and returns more variables."""


class Bare(NamedTuple):
    """A loop without HTTP, in a process of its own: the upper limit for a case."""

    name: str
    kind: str


class Ratio(NamedTuple):
    """A ratio of rates with its aim; of several cases in `to`, the fastest counts."""

    name: str
    of: str
    to: tuple[str, ...]
    aim: float


class Cost(NamedTuple):
    """The aim for a CPU time in microseconds, on a machine on which the limit costs `LIMIT_COST`."""

    of: str
    aim: float


LIMIT_COST = 7.6
"""The CPU time of one response of the limit, in microseconds, on the machine for which the aims hold."""


def _fresh_keys(_: Running) -> Mapping[str, object]:
    return {"FIRST": next(_new)}


def _records_to_delete(running: Running) -> Mapping[str, object]:
    first = next(_new)
    records.put_in(running, first + 1, 60_000)
    return {"FIRST": first}


def _writes(server: str, label: str) -> Iterator[Case]:
    yield Case(f"create, {label}", server, script="create", prepare=_fresh_keys)
    yield Case(f"create by POST, {label}", server, script="generate")
    yield Case(
        f"create by POST with an Idempotency-Key, {label}",
        server,
        script="generate",
        prepare=_fresh_keys,
        variables={"ONCE": "1"},
    )
    yield Case(f"update, {label}", server, script="update")
    yield Case(f"delete, {label}", server, script="delete", prepare=_records_to_delete)
    yield Case(f"batches of {PER_BATCH}, {label}", server, script="batch", prepare=_fresh_keys, per_request=PER_BATCH)
    yield Case(f"95 % reads, 5 % updates, {label}", server, script="mix", variables={"WRITES": 0.05})
    yield Case(f"50 % reads, 50 % updates, {label}", server, script="mix", variables={"WRITES": 0.5})


def _handlers(server: str, label: str) -> Iterator[Case]:
    yield Case(f"404, {label}", server, UNKNOWN, is_error=True)
    yield Case(f"304, {label}", server, headers={"If-None-Match": "*"})
    yield Case(f"/version, {label}", server, "/version")
    yield Case(f"a page of 50, {label}", server, "/guid")
    yield Case(f"{HEARTBEAT}, {label}", server, f"{PATH}/renewal", script="heartbeat")
    stream = f"/guid?user={STREAM_USER}"
    lines = {"Accept": records.NDJSON}
    yield Case(f"a stream, per record, {label}", server, stream, headers=lines, per_request=STREAMED)


LIMIT = "a fixed answer, asyncio + httptools + uvloop: the limit"
NGINX = "a file, nginx"
STARLETTE = tuple(f"a fixed answer, Starlette on {server}" for server in ("uvicorn", "granian"))
TORNADO = "a fixed answer, Tornado's own server"
FASTAPI = tuple(f"read through Redis, FastAPI on {server}" for server in ("uvicorn", "granian"))
VALIDATED = tuple(f"read through Redis, validated, FastAPI on {server}" for server in ("uvicorn", "granian"))
L1 = f"read from L1, {SERVICE}"
LOGGED, WITH_KEY, UNDER_REDIS = (
    f"{L1}, with its access log",
    f"{L1}, with a key",
    f"read from L1 under redis://, {SERVICE}",
)
REDIS, SQLITE = f"read from Redis, {SERVICE}", f"read from SQLite, {SERVICE}"

CASES = [
    Case(LIMIT, "limit"),
    Case(NGINX, "nginx"),
    Case(f"{NGINX}, with its access log", "nginx, logging"),
    Case(STARLETTE[0], "starlette"),
    Case(f"{STARLETTE[0]}, with its access log", "starlette, logging"),
    Case(STARLETTE[1], "starlette, granian"),
    Case(f"{STARLETTE[1]}, with its access log", "starlette, granian, logging"),
    Case(TORNADO, "tornado"),
    Case(f"{TORNADO}, with its access log", "tornado, logging"),
    Case(FASTAPI[0], "fastapi"),
    Case(FASTAPI[1], "fastapi, granian"),
    Case(VALIDATED[0], "fastapi, validated"),
    Case(f"{VALIDATED[0]}, with its access log", "fastapi, validated, logging"),
    Case(VALIDATED[1], "fastapi, validated, granian"),
    Case(L1, "guidsvc"),
    Case(LOGGED, "guidsvc, logging"),
    Case(WITH_KEY, "guidsvc, key"),
    Case(UNDER_REDIS, "guidsvc, Redis"),
    Case(f"read from L1, {BY_TORNADO}", "guidsvc, Tornado"),
    Case(REDIS, "guidsvc, Redis without L1", script="read", variables={"KEYS": 1000}),
    Case(SQLITE, "guidsvc, no cache", script="read"),
    Case(f"read from MongoDB, {SERVICE}", "guidsvc, MongoDB", script="read"),
    *_handlers("guidsvc", SERVICE),
    *_handlers("guidsvc, Tornado", BY_TORNADO),
    *_writes("guidsvc", SERVICE),
    *_writes("guidsvc, Tornado", BY_TORNADO),
]
BARE = [
    Bare("create, a bare loop over sqlite3, a transaction each", "create"),
    Bare("update, a bare loop over sqlite3, a transaction each", "update"),
    Bare("read, a bare loop over sqlite3", "read"),
    Bare("read, a bare loop over redis.asyncio", "redis"),
]


def ratios() -> Iterator[Ratio]:
    """Yield the ratios with their aims."""
    yield Ratio("L1 read to the limit", L1, (LIMIT,), 0.85)
    yield Ratio("L1 read to nginx", L1, (NGINX,), 1)
    yield Ratio("L1 read to Starlette", L1, STARLETTE, 5)
    yield Ratio("L1 read to Tornado's own server", L1, (TORNADO,), 20)
    yield Ratio("L1 read to FastAPI + Redis", L1, FASTAPI, 25)
    yield Ratio("L1 read to FastAPI + Redis, validated", L1, VALIDATED, 25)
    yield Ratio("L1 read with the access log to the limit", LOGGED, (LIMIT,), 0.65)
    yield Ratio("L1 read with a key to one without access control", WITH_KEY, (L1,), 0.85)
    yield Ratio("L1 read under redis:// to memory://", UNDER_REDIS, (L1,), 0.95)
    yield Ratio("Redis read to FastAPI + Redis", REDIS, FASTAPI, 5)
    yield Ratio("SQLite read to FastAPI + Redis", SQLITE, FASTAPI, 5)
    yield Ratio("heartbeat that writes nothing to an L1 read", f"{HEARTBEAT}, {SERVICE}", (L1,), 0.7)
    yield Ratio("404 to Tornado's own server", f"404, {SERVICE}", (TORNADO,), 5)
    yield Ratio("304 to Tornado's own server", f"304, {SERVICE}", (TORNADO,), 5)
    yield Ratio("/version to Tornado's own server", f"/version, {SERVICE}", (TORNADO,), 2)
    for bare in BARE[:2]:
        yield Ratio(f"{bare.kind} to a bare loop over sqlite3", f"{bare.kind}, {SERVICE}", (bare.name,), 1.5)
    for case in _writes("guidsvc", SERVICE):
        yield Ratio(f"{case.name} to the same by Tornado's server", case.name, (f"{case.name} --server tornado",), 2)


def costs() -> Iterator[Cost]:
    """Yield the costs with their aims."""
    yield Cost(f"create, {SERVICE}", 120)
    yield Cost(f"update, {SERVICE}", 120)
    yield Cost(f"delete, {SERVICE}", 110)
    yield Cost(f"batches of {PER_BATCH}, {SERVICE}", 60)
    yield Cost(f"a page of 50, {SERVICE}", 250)
    yield Cost(f"a stream, per record, {SERVICE}", 5)
