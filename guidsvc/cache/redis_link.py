"""One pipelined connection to Redis, with a circuit breaker: it runs scripts, each in an epoch.

Calls made while an exchange is in progress go out together in the next one, as one pipeline. An exchange that fails or
exceeds the time limit breaks the link: every call is rejected at once (the circuit is open) while the link reconnects
in the background. It knows nothing of records, nor of the fence. Parameters and scripts call the epoch's name `boot`.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog
from redis.asyncio import Connection, ConnectionPool
from redis.exceptions import OutOfMemoryError, RedisError

from guidsvc.cache.lua_scripts import ADOPT, BEGIN, LOOK, READ, SCRIPTS, MemoryGuard, Script
from guidsvc.cache.redis_pool import CONNECT_SECONDS, REPLICA, demand_master, pool_of, reason, run_id, within
from guidsvc.cache.timings import CacheTimings, MonotonicClock, milliseconds
from guidsvc.errors import CacheUnavailable
from guidsvc.runtime.background import running_in_background
from guidsvc.runtime.batching import Batcher
from guidsvc.telemetry.metrics import CacheMetrics, Stopwatch

RETRY_SECONDS = 0.05, 1.0
"""The first and the longest pause between two attempts to reconnect."""
STEADY_SECONDS = 1.0
"""A link that lasted this long reconnects at once when it breaks."""
PIPELINE = 256
"""Maximum number of calls in one exchange."""

_log = structlog.get_logger(__name__)
_Command = tuple[str | bytes | int, ...]


def _draw() -> str:
    return secrets.token_hex(8)


@dataclass(frozen=True)
class _Call:
    script: Script
    guid: str
    arguments: "_Command"
    boot: str


class Epoch(NamedTuple):
    """A name space in Redis, valid until its memory is lost: its name, and the fence generation that it belongs to."""

    name: str
    gen: int


class Answer(NamedTuple):
    """The result of a script (None if the epoch is over), the local time of the request, and the token of a READ."""

    value: Any
    asked: float
    token: str


class _Round(NamedTuple):
    """A command, the token if it is a READ, the new guard value, and the indices of the calls that it answers."""

    command: _Command
    token: str
    number: int
    places: list[int]


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

    `me` identifies this process in Redis; `draw` returns a random name.
    """

    up_since: float | None = None
    """Since when Redis has answered, by the local timer; None if it does not answer."""

    def __init__(
        self,
        pool: ConnectionPool,
        *,
        name: str,
        timing: CacheTimings,
        timer: MonotonicClock = time.monotonic,
        draw: Callable[[], str] = _draw,
        meter: CacheMetrics | None = None,
    ) -> None:
        self._meter = CacheMetrics() if meter is None else meter
        self._meter.link(up=False)
        self._pool = pool
        self._name = name
        self._timing = timing
        self._timer = timer
        self._connection: Connection | None = None
        self._run_id = ""
        self._guard = MemoryGuard()
        self._up, self._broken = asyncio.Event(), asyncio.Event()
        self._calls: Batcher[_Call, Answer] = Batcher(
            self._exchange, limit=PIPELINE, in_flight=1, meter=self._meter.batch
        )
        self.draw = draw
        self.me = draw()

    async def read(self, guid: str, boot: str) -> Answer:
        """Run READ for a GUID; all reads of one exchange are one atomic command with one token."""
        return await self._ask(_Call(READ, guid, (), boot))

    async def call(self, script: Script, guid: str, *arguments: str | bytes | int, boot: str) -> Answer:
        """Run a script on the keys of a GUID; CacheUnavailable if Redis does not answer in time."""
        answer = await self._ask(_Call(script, guid, arguments, boot))
        if isinstance(answer.value, OutOfMemoryError):
            raise CacheUnavailable(f"Redis: {answer.value}")
        return answer

    async def epoch_lost(self, boot: str) -> bool:
        """Return whether the entries of this epoch are lost; CacheUnavailable if Redis does not answer."""
        return (await self.call(LOOK, "", boot=boot)).value is None

    async def begin_epoch(self, gen: int) -> Epoch:
        """Give Redis an epoch of this generation, or return the existing one if it is of this or a later generation."""
        answer = await self.call(ADOPT, "", gen, self.draw(), boot="")
        if answer.value is None:
            await self._break()
            raise CacheUnavailable(f"Redis: {REPLICA}")
        name = bytes(answer.value).decode()
        return Epoch(name, int(name.split(".")[1]))

    async def check(self) -> None:
        """Return if Redis answers, else raise CacheUnavailable."""
        await self.epoch_lost("")

    async def _ask(self, call: _Call) -> Answer:
        if self._connection is None:
            raise CacheUnavailable("Redis does not answer")
        with Stopwatch(self._meter.redis_latency):
            return await self._calls.ask(call)

    async def wait_up(self, seconds: float) -> None:
        """Return as soon as the link is up; CacheUnavailable if that takes longer than this."""
        try:
            await within(seconds, self._up.wait())
        except TimeoutError as error:
            raise CacheUnavailable("Redis does not answer") from error

    async def keep(self) -> None:
        """Connect, and reconnect whenever the link breaks, until cancelled; pauses grow while it does not last."""
        pause, longest = RETRY_SECONDS
        told = False
        while True:
            try:
                await self._connect()
                lasted = await self._lasts(STEADY_SECONDS)
                fault = "the connection is unstable"
            except Exception as error:  # noqa: BLE001  # logged; after any failure it connects again
                lasted, fault, pause = False, reason(error), 2 * pause
            if lasted:
                if told:
                    _log.info("redis available")
                told, pause = False, RETRY_SECONDS[0]
                await self._broken.wait()
                continue
            if not told and pause > RETRY_SECONDS[0]:  # a single failure may be a closed connection
                _log.warning("redis unavailable, reading from store", error=fault)
                told = True
            await asyncio.sleep(min(pause, longest))
            pause = min(2 * pause, longest)

    async def _lasts(self, seconds: float) -> bool:
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
            server, replication = await within(CONNECT_SECONDS, _greet(connection))
            demand_master(replication)
            await within(self._timing.redis, _pipeline(connection, [("PING",)]))
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

    async def _exchange(self, calls: list[_Call]) -> list[Answer]:
        """Run the calls in one round trip."""
        if self._connection is None:
            raise CacheUnavailable("Redis does not answer")
        asked, rounds = self._timer(), self._rounds(calls)
        try:
            replies = await within(self._timing.redis, _pipeline(self._connection, [each.command for each in rounds]))
        except (RedisError, OSError, TimeoutError, RuntimeError) as error:  # uvloop's, of a closed transport
            await self._break()
            raise CacheUnavailable(f"Redis: {reason(error)}") from error
        answers: dict[int, Answer] = {}
        for reply, (_, token, number, places) in zip(replies, rounds, strict=True):
            self._note(calls[places[0]], reply, number)
            many = reply if token and reply is not None else [reply] * len(places)
            answers |= {place: Answer(value, asked, token) for place, value in zip(places, many, strict=True)}
        return [answers[place] for place in range(len(calls))]

    def _note(self, call: _Call, reply: Any, number: int) -> None:
        """Note the guard value if a reply confirms that it was set."""
        if number and isinstance(reply, int) and (call.script is BEGIN or reply):
            self._guard.reach(call.boot, number)

    def _rounds(self, calls: list[_Call]) -> list[_Round]:
        """Build the commands, merging the reads of each epoch into one, with the calls that each command answers."""
        reads: dict[str, list[int]] = {}
        rounds: list[_Round] = []
        for place, call in enumerate(calls):
            if call.script is READ:
                reads.setdefault(call.boot, []).append(place)
            else:
                rounds.append(self._round(call, place))
        for boot, places in reads.items():
            token = self.draw()
            arguments = (token, milliseconds(self._timing.token), self.me, milliseconds(self._timing.lease))
            command = self._command(READ, boot, [calls[place].guid for place in places], arguments)
            rounds.append(_Round(command, token, 0, places))
        return rounds

    def _round(self, call: _Call, place: int) -> _Round:
        if call.script not in {BEGIN, LOOK}:
            return _Round(self._command(call.script, call.boot, [call.guid], call.arguments), "", 0, [place])
        least, number = self._guard.next(call.boot)
        arguments = (*call.arguments, least, number)
        command = self._command(call.script, call.boot, [call.guid], arguments, f"g:{self.me}")
        return _Round(command, "", number, [place])

    def _command(self, script: Script, boot: str, guids: list[str], arguments: _Command, *more: str) -> _Command:
        control, space = f"gs:{self._name}:ctl", f"gs:{self._name}:{boot}"
        keys = [f"{space}:{kind}:{guid}" for guid in guids for kind in "vwl"]
        keys += [f"{space}:{each}" for each in more]
        # An epoch of another run of Redis is void, even if its memory was restored or copied.
        first = self._run_id if script is ADOPT else boot if boot.startswith(self._run_id) else ""
        return ("EVALSHA", script.digest, 1 + len(keys), control, *keys, first, *arguments)


async def _greet(connection: Connection) -> tuple[bytes, bytes]:
    """Connect, load the scripts, and return the `server` and `replication` sections of INFO."""
    await connection.connect()  # type: ignore[no-untyped-call]
    loads = [("SCRIPT", "LOAD", script.source) for script in SCRIPTS]
    server, replication, *_ = await _pipeline(connection, [("INFO", "server"), ("INFO", "replication"), *loads])
    return bytes(server), bytes(replication)


async def _pipeline(connection: Connection, commands: Sequence[_Command]) -> list[Any]:
    """Send the commands as one, and return their replies in order; raise the first error reply.

    An out-of-memory error is returned as the reply to its command, because the other replies remain valid.
    """
    if not commands:
        return []
    await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    return [await _reply(connection) for _ in commands]


async def _reply(connection: Connection) -> Any:
    try:
        return await connection.read_response(disconnect_on_error=False)
    except OutOfMemoryError as error:
        return error
