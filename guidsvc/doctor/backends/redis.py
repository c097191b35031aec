"""Checks of Redis or Valkey. The probe uses a few separate keys, which are removed, and also expire."""

import asyncio
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from secrets import token_hex
from typing import Any

from redis.asyncio import Connection, ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, RedisError

from guidsvc.cache.redis.lua_scripts import SCRIPTS
from guidsvc.cache.redis.pool import (
    CONNECT_SECONDS,
    REPLICA,
    Command,
    info_sections,
    pipeline,
    pool_of,
    reason,
    run_id,
    within,
)
from guidsvc.cache.redis.probe import probe_redis
from guidsvc.cache.timings import CacheTimings
from guidsvc.config import Size
from guidsvc.connection_urls import redact
from guidsvc.doctor.checks import Check
from guidsvc.doctor.clocks import judge_clock
from guidsvc.doctor.findings import Finding, fail, fault, ok, warn
from guidsvc.system_errors import NetworkFault, network_fault, plain_reason

PINGS, PING_SECONDS = 200, 4.0
"""Number of pings that measure the delay, and the time in which they must end."""
LIMIT_SECONDS = CacheTimings().redis
"""After this time, the service counts Redis as unavailable."""
CONNECTIONS = 5
"""Number of connections that must reach the same server."""
EXPIRY_SECONDS = 10
"""Expiry of the keys of the probe."""
LOOK_SECONDS = 2.0
"""Time limit of each probe of a Redis that accepts connections, but may be frozen."""
_PERCENTILE = 0.99
_BUSY = "see what keeps it busy or stopped: a slow command, a full disk, a paused process; or correct host and port"
_OF_NAMES = {NetworkFault.UNKNOWN_NAME, NetworkFault.NO_LOOKUP, NetworkFault.UNREACHABLE}
_NEARLY = 0.9

Look = Callable[[Connection], Coroutine[Any, Any, Finding]]


def checks(url: str) -> Sequence[Check]:
    """Return the checks of the Redis at a URL."""

    def on_redis(look: Look, seconds: float = LOOK_SECONDS) -> Callable[[], Finding]:
        return lambda: asyncio.run(_connected(url, look, seconds))

    return (
        Check("redis.reach", lambda: asyncio.run(_reach(url)), is_gate=True),
        Check("redis.latency", on_redis(_latency, PING_SECONDS + 1), PING_SECONDS + 2 + CONNECT_SECONDS),
        Check("redis.memory", on_redis(_memory)),
        Check("redis.cluster", on_redis(_cluster)),
        Check("redis.rights", on_redis(_rights)),
        Check("redis.server", lambda: asyncio.run(_same_server(url)), CONNECTIONS * CONNECT_SECONDS + 1),
        Check("redis.clock", on_redis(_clock)),
    )


async def _connected(url: str, look: Look, seconds: float = LOOK_SECONDS) -> Finding:
    """Connect, and look within this time, which ends before the whole check would, without a word about Redis."""
    connection: Connection = pool_of(url, ConnectionPool).make_connection()  # type: ignore[no-untyped-call]
    try:
        await within(CONNECT_SECONDS, connection.connect())  # type: ignore[no-untyped-call]
        return await within(seconds, look(connection))
    except NoPermissionError as error:
        return fail(f"Redis denies a command: {reason(error)}", "grant it to the user, see docs/operations.md#rights")
    except (RedisConnectionError, OSError, TimeoutError) as error:
        return _no_answer(url, error)
    except RedisError as error:
        return fail(f"Redis failed: {reason(error)}", "see the log of Redis")
    finally:
        await connection.disconnect(nowait=True)


async def _reach(url: str) -> Finding:
    """Connect as the service does. `probe_redis` knows the remedies of what Redis says."""
    if not await probe_redis(url):
        found = await _connected(url, _role)
        return found if found.status == "fail" else fail(f"{redact(url)} did not answer in time", _BUSY)
    begun = time.monotonic()
    found = await _connected(url, _role)
    seconds = time.monotonic() - begun
    if found.status == "ok" and seconds > LIMIT_SECONDS:
        return warn(f"connecting to {redact(url)} takes {1000 * seconds:.0f} ms", "run the service nearer to it")
    return found._replace(found=f"{found.found} at {redact(url)}") if found.status == "ok" else found


def _no_answer(url: str, error: Exception) -> Finding:
    cause = network_fault(error)
    if cause is NetworkFault.TIMEOUT:
        return fail(f"Redis at {redact(url)} does not answer in time", _BUSY)
    remedy = cause.remedy if cause in _OF_NAMES else "start Redis, or correct host and port of --cache-url"
    return fail(f"Redis at {redact(url)} does not answer: {plain_reason(error)}", remedy)


async def _role(connection: Connection) -> Finding:
    info = await _info(connection, "server", "replication")
    if "role:master" not in info:
        return fault(REPLICA)
    name = "Valkey" if "valkey_version" in info else "Redis"
    return ok(f"{name} {_field(info, 'valkey_version') or _field(info, 'redis_version')}")


async def _latency(connection: Connection) -> Finding:
    seconds: list[float] = []
    deadline = time.monotonic() + PING_SECONDS
    while len(seconds) < PINGS and time.monotonic() < deadline:
        begun = time.monotonic()
        await pipeline(connection, [("PING",)])
        seconds.append(time.monotonic() - begun)
    slow = sorted(seconds)[int(_PERCENTILE * (len(seconds) - 1))]
    text = f"99 of 100 pings are answered within {1000 * slow:.1f} ms"
    if slow > LIMIT_SECONDS:
        limit = f"the service gives Redis {1000 * LIMIT_SECONDS:g} ms"
        return fail(f"{text}; {limit}", "run the service nearer to it, or see what keeps Redis busy")
    return ok(text)


async def _memory(connection: Connection) -> Finding:
    info = await _info(connection, "memory")
    policy, most = _field(info, "maxmemory_policy"), int(_field(info, "maxmemory") or 0)
    used = int(_field(info, "used_memory") or 0)
    if policy != "noeviction":
        finding = fail if most else warn
        when = "evicts keys when its memory is full" if most else "would evict keys if its memory were limited"
        return finding(f"Redis {when} ({policy}), also leases and markers", "set maxmemory-policy to noeviction")
    if not most:
        return ok(f"{Size(used)} used, without a limit; it evicts nothing")
    if used > _NEARLY * most:
        return warn(f"{Size(used)} of {Size(most)} are used: writes to Redis will fail", "raise maxmemory")
    return ok(f"{Size(used)} of {Size(most)} used; it evicts nothing")


async def _cluster(connection: Connection) -> Finding:
    if _field(await _info(connection, "cluster"), "cluster_enabled") == "1":
        return fail("Redis Cluster is not supported", "name a single Redis, or a Redis with replicas")
    return ok("no cluster")


async def _rights(connection: Connection) -> Finding:
    """Try each command that the service needs, on keys that belong to the probe."""
    name = f"gs:doctor:{token_hex(8)}"
    denied: dict[str, str] = {}
    for command in _commands(name):
        await _try(connection, command, denied)
    if denied:
        rights = " ".join(denied)
        return fail(
            f"Redis denies {', '.join(denied.values())}",
            f"grant the rights: ACL SETUSER NAME ~gs:* {rights} (docs/operations.md#rights)",
        )
    return ok("every command that the service needs is allowed")


def _commands(name: str) -> Sequence[Command]:
    """Return each command that the service needs; the last removes the probe. The script of EVALSHA does not exist."""
    scored = f"{name}:set"
    return (
        ("SET", name, 1, "EX", EXPIRY_SECONDS),
        ("GET", name),
        ("PTTL", name),
        ("PEXPIRE", name, 1000 * EXPIRY_SECONDS),
        ("INCRBY", name, 1),
        ("ZADD", scored, 1, "a", 2, "b"),
        ("PEXPIRE", scored, 1000 * EXPIRY_SECONDS),
        ("ZCOUNT", scored, 0, 9),
        ("ZREM", scored, "a"),
        ("ZREMRANGEBYSCORE", scored, 0, 9),
        ("TIME",),
        ("SCRIPT", "LOAD", SCRIPTS[0].source),
        ("EVALSHA", "0" * 40, 0),
        ("DEL", name, scored),
    )


async def _try(connection: Connection, command: Command, denied: dict[str, str]) -> None:
    try:
        await pipeline(connection, [command])
    except RedisError as error:
        text = reason(error)
        if isinstance(error, NoPermissionError) or text.lower().startswith("unknown command"):
            right = "+script|load" if command[0] == "SCRIPT" else f"+{str(command[0]).lower()}"
            denied[right] = str(command[0])
        elif isinstance(error, RedisConnectionError):
            raise


async def _same_server(url: str) -> Finding:
    """Compare the run ids that several connections see."""
    ids: set[str] = set()

    async def note(connection: Connection) -> Finding:
        (server,) = await info_sections(connection, "server")
        ids.add(run_id(server))
        return ok("")

    for _ in range(CONNECTIONS):
        found = await _connected(url, note)
        if found.status != "ok":
            return found
    if len(ids) > 1:
        return fail(
            f"{CONNECTIONS} connections reached {len(ids)} servers: a proxy spreads them",
            "name the Redis itself, or a proxy with a single server behind it",
        )
    return ok("all connections reach the same server")


async def _clock(connection: Connection) -> Finding:
    started = time.time()
    ((seconds, microseconds),) = await pipeline(connection, [("TIME",)])
    return judge_clock(started, int(seconds) + int(microseconds) / 1e6, time.time(), "Redis")


async def _info(connection: Connection, *sections: str) -> str:
    return "\n".join(text.decode(errors="replace") for text in await info_sections(connection, *sections))


def _field(info: str, name: str) -> str:
    match = re.search(rf"^{name}:([^\r\n]*)", info, re.MULTILINE)
    return "" if match is None else match[1]
