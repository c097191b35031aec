"""A simulated Redis that runs the real scripts, and connections to it that break like real ones."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from hashlib import sha1
from math import inf
from typing import Any

from hiredis import Reader
from lupa.lua51 import LuaRuntime
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ReadOnlyError

from tests.simulation.network import Network
from tests.simulation.world import World

Reply = Any
_LUA = LuaRuntime(unpack_returned_tuples=False, encoding=None)
_COMPILED: dict[bytes, Callable[..., Any]] = {}
_WRITES = frozenset({b"SET", b"DEL", b"PEXPIRE", b"ZADD", b"ZREM", b"ZREMRANGEBYSCORE"})
_READONLY = "READONLY You can't write against a read only replica."
_HEAD, _TAIL = b"return function(redis, KEYS, ARGV) ", b"\nend"


def _compile(source: bytes) -> bytes:
    digest = sha1(source, usedforsecurity=False).hexdigest().encode()
    if digest not in _COMPILED:
        _COMPILED[digest] = _LUA.execute(_HEAD + source + _TAIL)
    return digest


class SimulatedRedis:
    """Keys with expiries, by a clock that runs slightly faster or slower than others."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rate = world.random.uniform(0.996, 1.004)
        self._keys: dict[bytes, tuple[Any, float]] = {}
        self._saved: dict[bytes, tuple[Any, float]] = {}
        self._redis = _LUA.table_from({b"call": self._call, b"pcall": self._pcall})
        self.connections: list[Connection] = []
        self.run_id, self.history = world.draw(), world.draw()
        self._saved_history = self.history
        self.is_replica = False

    # Faults

    def flush(self) -> None:
        """Remove all keys."""
        self._keys.clear()

    def evict(self) -> None:
        """Remove the values, as an eviction would."""
        for key in [key for key in self._keys if b":v:" in key]:
            del self._keys[key]

    def save(self) -> None:
        """Write a snapshot."""
        self._saved_history = self.history
        self._saved = {
            key: (dict(value) if isinstance(value, dict) else value, dies) for key, (value, dies) in self._keys.items()
        }

    def restart(self, *, restored: bool) -> None:
        """Become a new process that is empty, or has the data and the history of the last snapshot."""
        self.run_id, self.is_replica = self._world.draw(), False
        self.history = self._saved_history if restored else self._world.draw()
        self._keys = dict(self._saved) if restored else {}
        for connection in list(self.connections):
            connection.reset()

    def demote(self) -> None:
        """Become a replica of another server, with the data of the last snapshot; connections stay open."""
        self.is_replica = True
        self._keys = dict(self._saved)

    def promote(self) -> None:
        """Become a master again: the same process, with its current data."""
        if self.is_replica:
            self.is_replica, self.history = False, self._world.draw()

    # Commands

    def run(self, command: Sequence[Any]) -> Reply:
        """Run a command of a client."""
        name, *arguments = (_bytes(part) for part in command)
        match name:
            case b"EVALSHA":
                return self._script(arguments)
            case b"SCRIPT":
                return _compile(arguments[1])
            case b"INFO":
                return self._info(arguments[0])
            case b"PING":
                return b"PONG"
        raise NotImplementedError(name)

    def _script(self, arguments: list[bytes]) -> Reply:
        digest, count, *rest = arguments
        if digest not in _COMPILED:
            return NoScriptError("NOSCRIPT")
        keys, values = rest[: int(count)], rest[int(count) :]
        try:
            return _reply(_COMPILED[digest](self._redis, _LUA.table_from(keys), _LUA.table_from(values)))
        except ReadOnlyError as error:
            return error

    def _call(self, name: bytes, *arguments: Any) -> Any:
        if self.is_replica and name in _WRITES:
            raise ReadOnlyError(_READONLY)
        return getattr(self, f"_{name.decode().lower()}")(*arguments)

    def _pcall(self, name: bytes, *arguments: Any) -> Any:
        try:
            return self._call(name, *arguments)
        except ReadOnlyError:
            return _LUA.table_from({b"err": _READONLY.encode()})

    @property
    def _now(self) -> float:
        return 1_000_000 + self._world.now * 1000 * self._rate

    def _info(self, section: bytes) -> bytes:
        if section == b"server":
            return b"# Server\r\nrun_id:" + self.run_id.encode() + b"\r\n"
        role = "slave" if self.is_replica else "master"
        return f"# Replication\r\nrole:{role}\r\nmaster_replid:{self.history}\r\n".encode()

    def _time(self) -> Any:
        now = self._now
        return _LUA.table_from([b"%d" % (now // 1000), b"%d" % (now % 1000 * 1000)])

    def _alive(self, key: bytes) -> Any:
        value, expires_at = self._keys.get(key, (None, inf))
        if expires_at <= self._now:
            del self._keys[key]
            return None
        return value

    def _get(self, key: bytes) -> Any:
        value = self._alive(key)
        return False if value is None else value

    def _set(self, key: bytes, value: bytes, *px: Any) -> Any:
        self._keys[key] = (value, self._now + float(px[1]) if px else inf)
        return _LUA.table_from({b"ok": b"OK"})

    def _del(self, key: bytes) -> int:
        return int(self._keys.pop(key, None) is not None)

    def _pttl(self, key: bytes) -> int:
        if self._alive(key) is None:
            return -2
        expires_at = self._keys[key][1]
        return -1 if expires_at == inf else int(expires_at - self._now)

    def _pexpire(self, key: bytes, lifetime_ms: Any) -> int:
        self._keys[key] = (self._keys[key][0], self._now + float(lifetime_ms))
        return 1

    def _zadd(self, key: bytes, score: float, member: bytes) -> int:
        members = self._alive(key)
        if members is None:
            members = {}
            self._keys[key] = (members, inf)
        members[member] = float(score)
        return 1

    def _zrem(self, key: bytes, member: bytes) -> int:
        members = self._alive(key) or {}
        removed = members.pop(member, None) is not None
        if not members:
            self._keys.pop(key, None)
        return int(removed)

    def _zremrangebyscore(self, key: bytes, _low: bytes, high: float) -> int:
        return sum(self._zrem(key, member) for member, score in dict(self._alive(key) or {}).items() if score <= high)

    def _zcount(self, key: bytes, low: bytes, _high: bytes) -> int:
        return sum(score > float(low[1:]) for score in (self._alive(key) or {}).values())


class Pool:
    """Creates the connections of one process, like `redis.asyncio.ConnectionPool`."""

    def __init__(self, world: World, redis: SimulatedRedis, network: Network) -> None:
        self._parts = world, redis, network

    def make_connection(self) -> "Connection":
        """Create a connection."""
        return Connection(*self._parts)


class _Parser:
    """A parser like `guidsvc.cache.redis.reply_parser.BoundedParser`."""

    def __init__(self, replies: deque[Reply]) -> None:
        self._replies = replies

    @property
    def has_unread(self) -> bool:
        return bool(self._replies)


class Connection:
    """A connection like `redis.asyncio.Connection`: commands and replies arrive in order, if they arrive."""

    def __init__(self, world: World, redis: SimulatedRedis, network: Network) -> None:
        self._world, self._redis, self._network = world, redis, network
        self._replies: deque[Reply] = deque()
        self._parser = _Parser(self._replies)
        self._waiting: asyncio.Future[None] | None = None
        self._broken = False
        self._sent_until = self._received_until = 0.0  # the arrival of the last message in each direction

    async def connect(self) -> None:
        await self._world.run_far(self._network, lambda: None, RedisConnectionError("connect"))
        self._redis.connections.append(self)

    async def disconnect(self, *, nowait: bool = False) -> None:  # it always disconnects at once
        self.reset()

    async def send_packed_command(self, packed: bytes, *, check_health: bool) -> None:
        if self._broken:
            raise RedisConnectionError("broken")
        commands = _commands(packed)
        delay = self._network.there()
        if delay is not None:
            self._sent_until = max(self._sent_until, self._world.now + delay)
            self._world.outside(self._sent_until - self._world.now, self._run_commands, commands)

    async def read_response(self, *, disconnect_on_error: bool) -> Reply:
        while not self._replies:
            if self._broken:
                raise RedisConnectionError("broken")
            self._waiting = self._world.create_future()
            await self._waiting
        reply = self._replies.popleft()
        if isinstance(reply, Exception):
            raise reply
        return reply

    def reset(self) -> None:
        """Break the connection; messages already sent may still arrive."""
        self._broken = True
        if self in self._redis.connections:
            self._redis.connections.remove(self)
        self._wake()

    def _run_commands(self, commands: list[list[bytes]]) -> None:
        replies = [self._redis.run(command) for command in commands]
        delay = self._network.back()
        if delay is not None:
            self._received_until = max(self._received_until, self._world.now + delay)
            self._world.outside(self._received_until - self._world.now, self._receive_replies, replies)

    def _receive_replies(self, replies: list[Reply]) -> None:
        if not self._broken:
            self._replies.extend(replies)
            self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


def _commands(packed: bytes) -> list[list[bytes]]:
    reader, commands = Reader(), list[list[bytes]]()
    reader.feed(packed)
    while (command := reader.gets()) is not False:
        commands.append(command)
    return commands


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _reply(value: Any) -> Reply:
    """Convert the result of a script to a reply, by the rules of Redis."""
    if value is None or value is False:
        return None
    if isinstance(value, bytes | int | float):
        return int(value) if isinstance(value, float) else value
    return [_reply(value[index]) for index in range(1, len(value) + 1)]
