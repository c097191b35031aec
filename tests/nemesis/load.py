"""The clients: each asks one host over and over, one request at a time, and notes what it asked and was told.

Most requests are about known GUIDs. Some create GUIDs with an Idempotency-Key and repeat the request until it is
answered; what they created they read, delete and ask for again, so that a creation that is done late shows.
"""

import asyncio
import json
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.client import (
    BAD_REQUEST,
    CONFLICT,
    CREATED,
    GATEWAY_TIMEOUT,
    INTERNAL_SERVER_ERROR,
    NOT_FOUND,
    SERVICE_UNAVAILABLE,
)

from tests.nemesis.cluster import Host
from tests.support.history import Delete, Operation, Outcome, Read, Write
from tests.support.http_client import hang_up
from tests.support.once_checker import Attempt, Created, Request, Result

CLIENTS = 32
"""In all."""
THINK_SECONDS = 0.04
"""The longest pause of a client between two requests, so that the machine is not the bottleneck."""
HOT, COLD = 20, 180
"""How many keys there are of each kind."""
HOT_READS, HOT_WRITES = 0.7, 0.2
"""What part of the reads, and of the writes, goes to the hot keys: what is written all the time is never cached."""
READS = 0.85
WRITES = ("put",) * 7 + ("create",) * 2 + ("update",) * 2 + ("patch",) * 3 + ("delete",) * 2
PATIENCE_SECONDS = (25.0,) * 4 + (2.0,)
"""After which a client hangs up; those of little patience leave writes behind that are done later."""
AGAIN_SECONDS = 0.1
"""The pause of a client that found nobody to ask."""
REPEATABLE = 0.02
"""The share of requests that create GUIDs with an Idempotency-Key."""
ATTEMPTS, RETRY_SECONDS = 20, 0.5
"""How often such a request is sent until it is answered, and the longest pause in between."""
BATCH = (0, 0, 3)
"""How many GUIDs it creates with a batch; 0 creates one without."""

KEYS = [f"{number:032X}" for number in range(HOT + COLD)]

_STATUS = slice(9, 12)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_TAG = re.compile(rb'\r\netag: *"(\d+)"', re.IGNORECASE)
_LEVEL = re.compile(rb"\r\ncache-status: [^\r]*detail=(\w+)", re.IGNORECASE)
_LAST = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


@dataclass(frozen=True)
class Reply:
    """What the service answered."""

    status: int
    version: int | None
    level: str | None
    body: bytes


@dataclass
class Notes:
    """What all clients have seen."""

    history: list[Operation] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    """By method and status, or what came in its place."""
    levels: Counter[str | None] = field(default_factory=Counter)
    """Of the reads that found a record: where that came from."""
    versions: dict[str, int] = field(default_factory=dict)
    """The version of each key that was told last."""
    requests: list[Request] = field(default_factory=list)
    """What was sent with an Idempotency-Key."""
    marks: int = 0

    def mark(self) -> str:
        """Return a mark that no other write has."""
        self.marks += 1
        return f"write {self.marks}"


class Client:
    """Asks one host, on one connection, and never sends anything twice."""

    def __init__(self, name: str, host: Host, notes: Notes, rng: random.Random) -> None:
        self._name = name
        self._host = host
        self._notes = notes
        self._rng = rng
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._over = asyncio.Event()

    async def ask_until(self, over: asyncio.Event) -> None:
        """Ask over and over."""
        self._over = over
        while not over.is_set():
            await asyncio.sleep(self._rng.uniform(0, THINK_SECONDS))
            await self._something()
        await self.aclose()

    async def _create_once(self) -> None:
        """Create GUIDs with an Idempotency-Key; read and delete them, ask again, and read what there is then."""
        count = self._rng.choice(BATCH)
        marks = [self._notes.mark() for _ in range(count or 1)]
        request = Request(marks[0].replace(" ", "-"), marks)
        self._notes.requests.append(request)
        for _ in range(ATTEMPTS):
            if await self._attempt(request, is_batch=count > 0) or self._over.is_set():
                break
            await asyncio.sleep(self._rng.uniform(0, RETRY_SECONDS))
        for guid, version in request.created():
            await self.read(guid)
            await self._delete(guid, version)
        if request.created():
            await self._attempt(request, is_batch=count > 0)
        for guid, _ in request.created():
            await self.read(guid)

    async def _attempt(self, request: Request, *, is_batch: bool) -> bool:
        """Send the request once; return whether it needs no other attempt."""
        operations = [{"user": mark} for mark in request.marks]
        path, body = ("/guid:batch", {"operations": operations}) if is_batch else ("/guid", operations[0])
        start = time.monotonic()
        reply = await self._ask("POST", path, body, {"Idempotency-Key": request.key})
        done = reply is not None and reply.status < BAD_REQUEST
        results = _results(reply) if done and is_batch else [_result(reply)] * len(operations)
        request.attempts.append(Attempt(start, time.monotonic(), self._name, results))
        return done

    async def aclose(self) -> None:
        """Hang up."""
        if self._stream is not None:
            (_, writer), self._stream = self._stream, None
            await hang_up(writer)

    async def read(self, key: str) -> bool:
        """Read a key, and return whether that was answered."""
        start = time.monotonic()
        reply = await self._ask("GET", f"/guid/{key}")
        found = reply is not None and reply.version is not None
        if reply is None or not (found or reply.status == NOT_FOUND):
            return False
        mark = json.loads(reply.body)["user"] if found else None
        if found:
            self._notes.levels[reply.level] += 1
        self._notes.history.append(Read(key, start, time.monotonic(), self._name, reply.version, mark))
        return True

    async def _something(self) -> None:
        if self._rng.random() < REPEATABLE:
            await self._create_once()
            return
        reads = self._rng.random() < READS
        hot = self._rng.random() < (HOT_READS if reads else HOT_WRITES)
        key = KEYS[self._rng.randrange(HOT) if hot else self._rng.randrange(HOT, HOT + COLD)]
        if reads:
            await self.read(key)
            return
        kind, base = self._rng.choice(WRITES), self._notes.versions.get(key)
        if kind == "delete" and base is not None:
            await self._delete(key, base)
        else:
            await self._write(kind, key, base)

    async def _write(self, kind: str, key: str, base: int | None) -> None:
        """Create or update, with and without conditions."""
        mark = self._notes.mark()
        conditions = {"create": {"If-None-Match": "*"}, "update": {"If-Match": f'"{base or 0}"'}}.get(kind, {})
        start = time.monotonic()
        method = "PATCH" if kind == "patch" else "PUT"
        reply = await self._ask(method, f"/guid/{key}", {"user": mark}, conditions)
        end, outcome = time.monotonic(), _outcome(reply)
        version = reply.version if reply and outcome is Outcome.OK else None
        self._notes.history.append(Write(key, start, end, self._name, mark, outcome, version))

    async def _delete(self, key: str, base: int) -> None:
        start = time.monotonic()
        reply = await self._ask("DELETE", f"/guid/{key}", None, {"If-Match": f'"{base}"'})
        outcome = _outcome(reply)
        self._notes.history.append(Delete(key, start, time.monotonic(), self._name, base, outcome))

    async def _ask(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Reply | None:
        """Send one request and return the reply; None if none came."""
        request = _request(method, path, body, headers or {})
        try:
            async with asyncio.timeout(self._rng.choice(PATIENCE_SECONDS)):
                reply = await self._exchange(request)
        except (OSError, EOFError, TimeoutError) as error:
            self._notes.answers[f"{method} {type(error).__name__}"] += 1
            await self.aclose()
            if isinstance(error, ConnectionRefusedError):
                await asyncio.sleep(AGAIN_SECONDS)
            return None
        self._notes.answers[f"{method} {reply.status}"] += 1
        if reply.version is not None:
            self._notes.versions[path.removeprefix("/guid/")] = reply.version
        return reply

    async def _exchange(self, request: bytes) -> Reply:
        if self._stream is None:
            self._stream = await asyncio.open_connection("127.0.0.1", self._host.port)
        reader, writer = self._stream
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length, version, level = (each.search(head) for each in (_LENGTH, _TAG, _LEVEL))
        body = await reader.readexactly(int(length[1])) if length else b""
        if _LAST.search(head):
            await self.aclose()
        return Reply(
            int(head[_STATUS]), int(version[1]) if version else None, level[1].decode() if level else None, body
        )


def _request(method: str, path: str, body: object, headers: Mapping[str, str]) -> bytes:
    sent = b"" if body is None else json.dumps(body).encode()
    length = {} if body is None else {"Content-Type": "application/json", "Content-Length": str(len(sent))}
    fields = {"Host": "127.0.0.1"} | length | dict(headers)
    return "\r\n".join([f"{method} {path} HTTP/1.1", *(f"{a}: {b}" for a, b in fields.items()), "", ""]).encode() + sent


def _result(reply: Reply | None) -> Result:
    """Return what the answer to a single creation says; to a batch, if it is not done."""
    if reply is None or reply.status == CONFLICT:  # another attempt is being done
        return Result(Outcome.UNKNOWN)
    if reply.status != CREATED or reply.version is None:
        return Result(_outcome(reply))
    return Result(Outcome.OK, Created(json.loads(reply.body)["guid"], reply.version))


def _results(reply: Reply | None) -> list[Result]:
    """Return what the answer to a batch says of each of its creations."""
    assert reply is not None
    return [
        Result(
            _outcome_of(each["status"]), Created(each["guid"], int(each["etag"].strip('"'))) if "etag" in each else None
        )
        for each in json.loads(reply.body)["results"]
    ]


def _outcome(reply: Reply | None) -> Outcome:
    """Tell what a write came to."""
    return Outcome.UNKNOWN if reply is None else _outcome_of(reply.status)


def _outcome_of(status: int) -> Outcome:
    """Tell what a status says of a write. Of a fault of the service (500) nothing is known."""
    if status == GATEWAY_TIMEOUT:
        return Outcome.UNKNOWN
    if status < BAD_REQUEST:
        return Outcome.OK
    refused = status < INTERNAL_SERVER_ERROR or status == SERVICE_UNAVAILABLE
    return Outcome.NO if refused else Outcome.UNKNOWN


@asynccontextmanager
async def load(hosts: list[Host], notes: Notes, rng: random.Random) -> AsyncIterator[None]:
    """Run the clients, inside. At the end each has its answer, or has lost its patience."""
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            host = hosts[number % len(hosts)]
            client = Client(f"client {number} of {host.name}", host, notes, random.Random(rng.random()))
            group.create_task(client.ask_until(over))
        try:
            yield
        finally:
            over.set()


async def read_all(hosts: list[Host], notes: Notes, rng: random.Random, workers: int) -> None:
    """Read each key once more through each worker, on connections of their own, until it is answered."""
    for host in hosts:
        for _ in range(workers):
            client = Client(f"the last of {host.name}", host, notes, rng)
            for key in KEYS:
                while not await client.read(key):
                    await asyncio.sleep(AGAIN_SECONDS)
            await client.aclose()
