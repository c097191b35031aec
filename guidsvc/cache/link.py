"""One connection to Redis: the boot it works under, the scripts it runs, and what happens when it breaks.

All that is asked while an exchange is under way goes out with the next one, as one pipeline. An exchange that
takes longer than the time-out, or fails in any way, breaks the link: at once everything is refused (the circuit
is open), while the link is made anew in the background. Knows nothing of records.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import structlog
from redis.asyncio import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, RedisError

from guidsvc.background import background
from guidsvc.batching import Batcher
from guidsvc.errors import CacheUnavailable, StartError
from guidsvc.meters import CacheMeter, Timing

TIMEOUT = 0.1
"""Seconds in which Redis answers, or counts as unavailable."""
CONNECT_SECONDS = 1.0
"""For the connection itself, with TLS and all; after it, Redis must prove that it answers within the time-out."""
RETRY_SECONDS = 0.05, 1.0
"""The first and the longest pause between two tries to make the link anew."""
STEADY_SECONDS = 1.0
"""A link that has lasted so long is made anew at once when it breaks."""
PIPELINE = 256
"""At most so many calls go out in one exchange."""

TURNS = 100
"""So many turns of the loop is an answer given that has arrived, to get in parts to whoever waits for it."""

_log = structlog.get_logger(__name__)
_Done = TypeVar("_Done")


class Script(NamedTuple):
    """A Lua script and the name it has in Redis."""

    source: str
    digest: str

    @classmethod
    def load(cls, name: str) -> "Script":
        """Read one of the scripts beside this module."""
        source = Path(__file__).with_name(f"{name}.lua").read_text(encoding="utf-8")
        return cls(source, sha1(source.encode(), usedforsecurity=False).hexdigest())


READ, FILL, BEGIN, END = (Script.load(name) for name in ("read", "fill", "begin", "end"))
_ADOPT = Script.load("adopt")


@dataclass(frozen=True)
class _Call:
    script: Script | None  # or, where None, the value is asked for as it is
    guid: str
    arguments: tuple[str | bytes | int, ...]
    boot: str | None  # under this boot only; or, where None, under whichever is current


class Reply(NamedTuple):
    """What a script answered, and the boot it ran under; `value` is None where that boot is over."""

    boot: str
    value: Any


@asynccontextmanager
async def open_link(url: str, *, name: str, meter: CacheMeter | None = None) -> AsyncIterator["Link"]:
    """Open a link, whether or not Redis answers now, and close it at the end; StartError if the URL makes no sense."""
    try:
        parts = urlsplit(url)
        if parts.scheme != "unix" and not re.fullmatch(r"/?|/[0-9]+", parts.path):
            raise ValueError(f"{parts.path} is no number of a Redis database")
        pool = ConnectionPool.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=None)
        pool.make_connection()  # type: ignore[no-untyped-call]  # which is made and not connected: an option that no connection knows shows here
    except (ValueError, TypeError) as error:
        raise StartError(f"cache_url: {error}") from error
    link = Link(pool, name=name, meter=meter)
    try:
        async with background(link.keep()):
            with suppress(CacheUnavailable):
                await link.wait_up(CONNECT_SECONDS)
            yield link
    finally:
        await link.aclose()


class Link:
    """Runs scripts on one connection of `pool`, in the name space of the store `name`, while `keep` keeps it up."""

    def __init__(
        self, pool: ConnectionPool, *, name: str, timeout: float = TIMEOUT, meter: CacheMeter | None = None
    ) -> None:
        self._meter = CacheMeter() if meter is None else meter
        self._meter.link(up=False)
        self._pool = pool
        self._name = name
        self._timeout = timeout
        self._connection: Connection | None = None
        self._boot = self._run_id = ""
        self._up, self._broken = asyncio.Event(), asyncio.Event()
        self._calls: Batcher[_Call, Reply] = Batcher(
            self._exchange_all, limit=PIPELINE, in_flight=1, meter=self._meter.batch
        )

    async def call(self, script: Script, guid: str, *arguments: str | bytes | int, boot: str | None = None) -> Reply:
        """Run a script on the keys of a GUID; CacheUnavailable if Redis does not answer in time."""
        reply = await self._ask(_Call(script, guid, arguments, boot))
        if isinstance(reply.value, OutOfMemoryError):
            raise CacheUnavailable(f"Redis: {reply.value}")
        return reply

    async def value(self, guid: str) -> bytes:
        """Return the value of a GUID as it is, empty if there is none; CacheUnavailable if Redis is too slow.

        All that are asked for in one exchange are read in one step, together with the boot.
        """
        value: bytes = (await self._ask(_Call(None, guid, (), None))).value
        return value

    async def _ask(self, call: _Call) -> Reply:
        if self._connection is None:
            raise CacheUnavailable("Redis does not answer")
        with Timing(self._meter.redis_latency):
            return await self._calls.ask(call)

    async def wait_up(self, seconds: float) -> None:
        """Return as soon as the link is up; CacheUnavailable if it is not within this time."""
        try:
            await _within(seconds, self._up.wait())
        except TimeoutError as error:
            raise CacheUnavailable("Redis does not answer") from error

    async def keep(self) -> None:
        """Make the link, and make it anew whenever it breaks, until cancelled; one that does not last, ever later."""
        pause, longest = RETRY_SECONDS
        told = False
        while True:
            try:
                await self._connect()
                lasted = await self._lasts(STEADY_SECONDS)
                fault = "it answers, and then fails"
            except Exception as error:  # noqa: BLE001  # it is told; whatever broke the link, it is made anew
                lasted, fault, pause = False, _reason(error), 2 * pause
            if lasted:
                if told:
                    _log.info("cache is up")
                told, pause = False, RETRY_SECONDS[0]
                await self._broken.wait()
                continue
            if not told and pause > RETRY_SECONDS[0]:  # once may be a connection that was closed, and is no news
                _log.warning("cache is down, reads go to the store, writes are refused", error=fault)
                told = True
            await asyncio.sleep(min(pause, longest))
            pause = min(2 * pause, longest)

    async def _lasts(self, seconds: float) -> bool:
        """Whether the link is still up after this time; if not, return as soon as it breaks."""
        try:
            async with asyncio.timeout(seconds):
                await self._broken.wait()
        except TimeoutError:
            return True
        return False

    async def aclose(self) -> None:
        """Answer what is under way, and close the connection."""
        await self._calls.drain()
        await self._break()

    async def _connect(self) -> None:
        connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            info = await _within(CONNECT_SECONDS, _greet(connection))
            self._boot = await _within(self._timeout, _adopt(connection, self._name, _run_id(info)))
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._run_id = _run_id(info)
        self._connection = connection
        self._meter.link(up=True)
        self._broken.clear()
        self._up.set()

    async def _break(self) -> None:
        connection, self._connection = self._connection, None
        self._meter.link(up=False)
        self._up.clear()
        self._broken.set()
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def _exchange_all(self, calls: list[_Call]) -> list[Reply]:
        if self._connection is None:
            raise CacheUnavailable("Redis does not answer")
        try:
            return await _within(self._timeout, self._exchange(self._connection, calls))
        except (RedisError, OSError, TimeoutError) as error:
            await self._break()
            raise CacheUnavailable(f"Redis: {_reason(error)}") from error

    async def _exchange(self, connection: Connection, calls: list[_Call]) -> list[Reply]:
        """Run the calls; where the boot is over, adopt the one that is, and run again those that may go under it."""
        replies = await self._run(connection, calls)
        again = [place for place, call in enumerate(calls) if call.boot is None and replies[place].value is None]
        if not again:
            return replies
        self._boot = await _adopt(connection, self._name, self._run_id)
        for place, reply in zip(again, await self._run(connection, [calls[place] for place in again]), strict=True):
            if reply.value is None:
                raise RedisError("the boot was changed twice in one exchange")
            replies[place] = reply
        return replies

    async def _run(self, connection: Connection, calls: list[_Call]) -> list[Reply]:
        """Run the calls in one round trip; the values that are asked for come with one command."""
        current = self._boot
        boots = [call.boot or current for call in calls]
        scripts = [(call, boot) for call, boot in zip(calls, boots, strict=True) if call.script is not None]
        wanted = [call.guid for call in calls if call.script is None]
        commands = [self._command(call, boot) for call, boot in scripts]
        if wanted:
            space = f"gs:{self._name}:{current}:v:"
            commands.append(("MGET", f"gs:{self._name}:ctl", *[space + guid for guid in wanted]))
        answers = await _pipeline(connection, commands)
        values = _values(current, answers.pop()) if wanted else iter(())
        results = iter(answers)
        return [
            Reply(boot, next(values if call.script is None else results))
            for call, boot in zip(calls, boots, strict=True)
        ]

    def _command(self, call: _Call, boot: str) -> tuple[str | bytes | int, ...]:
        space = f"gs:{self._name}:{boot}"
        keys = (f"gs:{self._name}:ctl", f"{space}:v:{call.guid}", f"{space}:w:{call.guid}")
        digest = "" if call.script is None else call.script.digest
        return ("EVALSHA", digest, len(keys), *keys, boot, *call.arguments)


def _values(boot: str, found: list[bytes | None]) -> Iterator[bytes | None]:
    """Yield the values that were read together with the boot: None for each, if that is another; empty, if absent."""
    current, *values = found
    over = current is None or bytes(current) != boot.encode()
    return iter([None if over else value or b"" for value in values])


async def _within(seconds: float, work: Coroutine[Any, Any, _Done]) -> _Done:
    """Return what the work returns; TimeoutError, and the work is cancelled, if it takes longer than this.

    Not counted is the time in which our own loop was busy: an answer that is there when the time is up is taken.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
        for _ in range(TURNS):
            if not task.done():
                await asyncio.sleep(0)
    finally:
        late = task.cancel()
    if late:
        await asyncio.gather(task, return_exceptions=True)
        raise TimeoutError(f"no answer within {seconds} s")
    return task.result()


async def _greet(connection: Connection) -> bytes:
    """Connect, load the scripts, and return what INFO says of the server."""
    await connection.connect()  # type: ignore[no-untyped-call]
    loads = [("SCRIPT", "LOAD", script.source) for script in (READ, FILL, BEGIN, END, _ADOPT)]
    info, *_ = await _pipeline(connection, [("INFO", "server"), *loads])
    return bytes(info)


async def _adopt(connection: Connection, name: str, run_id: str) -> str:
    command = ("EVALSHA", _ADOPT.digest, 1, f"gs:{name}:ctl", run_id, secrets.token_hex(8))
    (boot,) = await _pipeline(connection, [command])
    if isinstance(boot, OutOfMemoryError):
        raise boot
    return bytes(boot).decode()


async def _pipeline(connection: Connection, commands: Sequence[tuple[str | bytes | int, ...]]) -> list[Any]:
    """Send the commands as one, and return their replies in order; an error among them is raised.

    But for one: that there was no memory for this command is its reply, since the others are as good as ever.
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


def _run_id(info: bytes) -> str:
    """Find the name that a Redis gives itself at each start, in what INFO says."""
    found = re.search(rb"^run_id:(\w+)", info, re.MULTILINE)
    if found is None:
        raise RedisError("INFO server tells no run_id")
    return found[1].decode()


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
