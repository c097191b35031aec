"""One pipelined connection to Redis, with a circuit breaker: it runs scripts, each in an epoch.

Calls made while an exchange is in progress go out together in the next one, as one pipeline. Callers take turns, and an
exchange has a bound on its calls and on the values that it reads, so no caller waits long for the calls of another. An
exchange that fails or exceeds the time limit breaks the link: every call is rejected at once (the circuit is open)
while the link reconnects in the background. It knows nothing of records, nor of the fence. The Lua scripts call the
epoch `boot`.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from time import perf_counter
from typing import Any, NamedTuple

import structlog
from redis.asyncio import Connection, ConnectionPool
from redis.exceptions import InvalidResponse, OutOfMemoryError, RedisError

from guidsvc.cache.redis.lua_scripts import ADOPT, BEGIN, LOOK, NOT_LOOKED_UP, READ, MemoryGuard, Script, values_in
from guidsvc.cache.redis.pool import (
    CONNECT_SECONDS,
    REPLICA,
    Command,
    demand_master,
    greet,
    pipeline,
    pool_of,
    reason,
    run_id,
    within,
)
from guidsvc.cache.timings import CacheTimings, milliseconds
from guidsvc.errors import CacheUnavailable
from guidsvc.runtime.background import running_in_background
from guidsvc.runtime.batching import NOT_SERVED, Batcher, NotServed
from guidsvc.runtime.clock import ContinuousClock, continuous_clock
from guidsvc.telemetry.metrics import CacheMetrics
from guidsvc.telemetry.outage import Outage

RETRY_SECONDS = 0.05, 1.0
"""The first and the longest pause between two attempts to reconnect."""
STEADY_SECONDS = 1.0
"""A link that lasted this long reconnects at once when it breaks."""
PIPELINE = 256
"""Maximum number of calls in one exchange."""
READ_BYTES = 128 * 1024
"""Size of the values in a reply to READ after which the remaining reads go into the next exchange."""

_log = structlog.get_logger(__name__)


def _random_name() -> str:
    return os.urandom(8).hex()


class _Call(NamedTuple):
    script: Script
    guid: str
    arguments: Command
    epoch: str


class Epoch(NamedTuple):
    """A name space in Redis, valid until its memory is lost: its name, and the fence generation that it belongs to."""

    name: str
    gen: int


class ScriptResult(NamedTuple):
    """The result of a script (None if the epoch is over), the local time of the request, and the token of a READ."""

    value: Any
    sent_at: float
    token: str


class _Round(NamedTuple):
    """A command, the token if it is a READ, the new guard value, and the indices of the calls that it answers."""

    command: Command
    token: str
    number: int
    indices: list[int]


@asynccontextmanager
async def open_link(
    url: str, *, name: str, timing: CacheTimings, meter: CacheMetrics | None = None
) -> AsyncIterator["RedisLink"]:
    """Open a link, whether or not Redis answers now, and close it at the end; StartError if the URL is invalid."""
    pool = pool_of(url, ConnectionPool)
    link = RedisLink(pool, name=name, timing=timing, meter=meter)
    try:
        async with running_in_background(link.keep):
            with suppress(CacheUnavailable):
                await link.wait_up(CONNECT_SECONDS)
            yield link
    finally:
        await link.aclose()


class RedisLink:
    """Runs scripts on one connection of `pool`, in the name space of the store `name`, while `keep` maintains it.

    `me` identifies this process in Redis; `random_name` returns a random name.
    """

    up_since: float | None = None
    """Since when Redis has answered, by the local timer; None if it does not answer."""

    def __init__(  # noqa: PLR0913  # one argument per collaborator
        self,
        pool: ConnectionPool,
        *,
        name: str,
        timing: CacheTimings,
        timer: ContinuousClock = continuous_clock,
        random_name: Callable[[], str] = _random_name,
        meter: CacheMetrics | None = None,
        read_bytes: int = READ_BYTES,
    ) -> None:
        self._meter = CacheMetrics() if meter is None else meter
        self._meter.link(up=False)
        self._pool = pool
        self._name = name
        self._timing = timing
        self._timer = timer
        self._read_bytes = read_bytes
        self._connection: Connection | None = None
        self._run_id = ""
        self._guard = MemoryGuard()
        self._up, self._broken = asyncio.Event(), asyncio.Event()
        self._calls: Batcher[_Call, ScriptResult] = Batcher(
            self._exchange, limit=PIPELINE, in_flight=1, meter=self._meter.batch, by_caller=True
        )
        self.random_name = random_name
        self.me = random_name()

    def read(self, guid: str, epoch: str) -> Coroutine[Any, Any, ScriptResult]:
        """Run READ for a GUID; all reads of one exchange are one atomic command with one token."""
        return self._submit(_Call(READ, guid, (), epoch))

    def begin_read(self, guid: str, epoch: str, caller: str) -> asyncio.Future[ScriptResult] | None:
        """Begin a READ like `read`, without a task; return the future of its result, or None if the link is down."""
        return None if self._connection is None else self._calls.submit(_Call(READ, guid, (), epoch), group=caller)

    def call(
        self, script: Script, guid: str, *arguments: str | bytes | int, epoch: str
    ) -> Coroutine[Any, Any, ScriptResult]:
        """Run a script on the keys of a GUID; CacheUnavailable if Redis does not answer in time, or has no memory."""
        return self._submit(_Call(script, guid, arguments, epoch))

    async def epoch_lost(self, epoch: str) -> bool:
        """Return whether the entries of this epoch are lost; CacheUnavailable if Redis does not answer."""
        return (await self.call(LOOK, "", epoch=epoch)).value is None

    async def begin_epoch(self, gen: int) -> Epoch:
        """Give Redis an epoch of this generation, or return the existing one if it is of this or a later generation."""
        result = await self.call(ADOPT, "", gen, self.random_name(), epoch="")
        if result.value is None:
            await self._break()
            raise CacheUnavailable(f"Redis: {REPLICA}")
        name = result.value.decode()
        return Epoch(name, int(name.split(".")[1]))

    async def check(self) -> None:
        """Return if Redis answers, else raise CacheUnavailable."""
        await self.epoch_lost("")

    async def _submit(self, call: _Call) -> ScriptResult:
        if self._connection is None:
            raise CacheUnavailable("Redis does not answer")
        begun = perf_counter()
        try:  # without a Stopwatch, which costs each read four calls
            return await self._calls.ask(call)
        finally:
            self._meter.redis_latency.observe(perf_counter() - begun)

    async def wait_up(self, seconds: float) -> None:
        """Return as soon as the link is up; CacheUnavailable if that takes longer than this."""
        try:
            await within(seconds, self._up.wait())
        except TimeoutError as error:
            raise CacheUnavailable("Redis does not answer") from error

    async def keep(self) -> None:
        """Connect, and reconnect whenever the link breaks, until cancelled; pauses grow while it does not last."""
        pause, longest = RETRY_SECONDS
        outage = Outage(_log, "redis unavailable, reading from store", "redis available", timer=self._timer)
        while True:
            try:
                await self._connect()
                is_stable = await self._stays_up(STEADY_SECONDS)
                fault = "the connection is unstable"
            except Exception as error:  # noqa: BLE001  # logged; after any failure it connects again
                is_stable, fault, pause = False, reason(error), 2 * pause
            if is_stable:
                outage.end()
                pause = RETRY_SECONDS[0]
                await self._broken.wait()
                continue
            if pause > RETRY_SECONDS[0]:  # a single failure may be a closed connection
                outage.begin(error=fault)
            await asyncio.sleep(min(pause, longest))
            pause = min(2 * pause, longest)

    async def _stays_up(self, seconds: float) -> bool:
        """Return whether the link is still up after this time; return early if it breaks."""
        try:
            async with asyncio.timeout(seconds):
                await self._broken.wait()
        except TimeoutError:
            return True
        return False

    async def aclose(self) -> None:
        """Answer the calls in progress, and close the connection."""
        await self._calls.drain()
        await self._break()

    async def _connect(self) -> None:
        connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            server, replication = await within(CONNECT_SECONDS, greet(connection))
            demand_master(replication)
            if await within(self._timing.redis, pipeline(connection, [("PING",)])) != [b"PONG"]:
                raise InvalidResponse("the reply to PING is not PONG")
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._run_id = run_id(server)
        self._connection = connection
        self._meter.link(up=True)
        self._broken.clear()
        self._up.set()
        self.up_since = self._timer()

    async def _break(self) -> None:
        connection, self._connection = self._connection, None
        self._meter.link(up=False)
        self.up_since = None
        self._up.clear()
        self._broken.set()
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def _exchange(self, calls: list[_Call]) -> list[ScriptResult | NotServed | Exception]:
        """Run the calls in one round trip."""
        if self._connection is None:
            raise CacheUnavailable("Redis does not answer")
        sent_at, rounds = self._timer(), self._rounds(calls)
        try:
            replies = await within(self._timing.redis, pipeline(self._connection, [each.command for each in rounds]))
            results: dict[int, ScriptResult | NotServed | Exception] = {}
            for reply, (_, token, number, indices) in zip(replies, rounds, strict=True):
                if isinstance(reply, OutOfMemoryError):
                    results |= dict.fromkeys(indices, CacheUnavailable(f"Redis: {reply}"))
                    continue
                values = values_in(calls[indices[0]].script, reply, len(indices))
                self._note(calls[indices[0]], reply, number)
                results |= {
                    index: NOT_SERVED if value == NOT_LOOKED_UP else ScriptResult(value, sent_at, token)
                    for index, value in zip(indices, values, strict=True)
                }
        except (RedisError, OSError, TimeoutError, RuntimeError) as error:  # uvloop's, of a closed transport
            await self._break()
            raise CacheUnavailable(f"Redis: {reason(error)}") from error
        return [results[index] for index in range(len(calls))]

    def _note(self, call: _Call, reply: Any, number: int) -> None:
        """Note the guard value if a reply confirms that it was set."""
        if number and isinstance(reply, int) and (call.script is BEGIN or reply):
            self._guard.reach(call.epoch, number)

    def _rounds(self, calls: list[_Call]) -> list[_Round]:
        """Build the commands, merging the reads of each epoch into one, with the calls that each command answers."""
        reads: dict[str, list[int]] = {}
        rounds: list[_Round] = []
        for index, call in enumerate(calls):
            if call.script is READ:
                reads.setdefault(call.epoch, []).append(index)
            else:
                rounds.append(self._round(call, index))
        for epoch, indices in reads.items():
            token = self.random_name()
            token_ms, lease_ms = milliseconds(self._timing.token), milliseconds(self._timing.lease)
            arguments = (token, token_ms, self.me, lease_ms, self._read_bytes)
            command = self._command(READ, epoch, [calls[index].guid for index in indices], arguments)
            rounds.append(_Round(command, token, 0, indices))
        return rounds

    def _round(self, call: _Call, index: int) -> _Round:
        if call.script not in {BEGIN, LOOK}:
            return _Round(self._command(call.script, call.epoch, [call.guid], call.arguments), "", 0, [index])
        least, number = self._guard.next(call.epoch)
        arguments = (*call.arguments, least, number)
        command = self._command(call.script, call.epoch, [call.guid], arguments, f"g:{self.me}")
        return _Round(command, "", number, [index])

    def _command(self, script: Script, epoch: str, guids: list[str], arguments: Command, *extra_keys: str) -> Command:
        control, space = f"gs:{self._name}:ctl", f"gs:{self._name}:{epoch}"
        keys = [f"{space}:{kind}:{guid}" for guid in guids for kind in "vwl"]
        keys += [f"{space}:{each}" for each in extra_keys]
        # An epoch of another run of Redis is invalid, even if its memory was restored or copied.
        expected_epoch = self._run_id if script is ADOPT else epoch if epoch.startswith(self._run_id) else ""
        return ("EVALSHA", script.digest, 1 + len(keys), control, *keys, expected_epoch, *arguments)
