"""The clients: each sends one request at a time to one host, and records the request and its result.

Most requests are about known GUIDs. Some create GUIDs with an Idempotency-Key and repeat the
request until there is a reply; the client reads and deletes the created GUIDs and repeats the
request, so that a creation executed late is detected.
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
from tests.support.time_limit import within

CLIENTS = 32
"""The number of clients on all hosts together."""
THINK_SECONDS = 0.04
"""The longest pause of a client between two requests, so that the machine is not the bottleneck."""
HOT, COLD = 20, 180
"""The number of keys of each kind."""
HOT_READS, HOT_WRITES = 0.7, 0.2
"""The shares of reads and writes that go to hot keys. A record that is written all the time is never cached."""
READS = 0.85
WRITES = ("put",) * 7 + ("create",) * 2 + ("update",) * 2 + ("patch",) * 3 + ("delete",) * 2
PATIENCE_SECONDS = (25.0,) * 4 + (2.0,)
"""The timeouts of clients; a short one leaves writes behind that are executed later."""
LAST_SECONDS = 300.0
"""The time limit for the clients to end: each may have ten requests before it, and wait for each reply."""
RECONNECT_SECONDS = 0.1
"""The pause of a client whose connection was refused."""
REPEATABLE = 0.02
"""The share of requests that create GUIDs with an Idempotency-Key."""
ATTEMPTS, RETRY_SECONDS = 20, 0.5
"""The maximum of attempts of such a request, and the longest pause between them."""
BATCH = (0, 0, 3)
"""The number of GUIDs of a batch; 0 stands for a single creation without a batch."""

KEYS = [f"{number:032X}" for number in range(HOT + COLD)]

_STATUS = slice(9, 12)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_TAG = re.compile(rb'\r\netag: *"(\d+)"', re.IGNORECASE)
_LEVEL = re.compile(rb"\r\ncache-status: [^\r]*detail=(\w+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


@dataclass(frozen=True)
class Reply:
    """A response of the service."""

    status: int
    version: int | None
    level: str | None
    body: bytes


@dataclass
class Observations:
    """The observations of all clients."""

    history: list[Operation] = field(default_factory=list)
    replies: Counter[str] = field(default_factory=Counter)
    """By method and status, or by method and error."""
    levels: Counter[str | None] = field(default_factory=Counter)
    """The level that served each read of a record."""
    versions: dict[str, int] = field(default_factory=dict)
    """The latest reported version of each key."""
    requests: list[Request] = field(default_factory=list)
    """The requests with an Idempotency-Key."""
    mark_count: int = 0

    def mark(self) -> str:
        """Return a text that no other write has."""
        self.mark_count += 1
        return f"write {self.mark_count}"


class Client:
    """Sends requests to one host, on one connection, and never repeats one by itself."""

    def __init__(self, name: str, host: Host, observations: Observations, rng: random.Random) -> None:
        self._name = name
        self._host = host
        self._observations = observations
        self._rng = rng
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._is_over = asyncio.Event()

    async def run_until(self, is_over: asyncio.Event) -> None:
        """Send requests until it is over."""
        self._is_over = is_over
        while not is_over.is_set():
            await asyncio.sleep(self._rng.uniform(0, THINK_SECONDS))
            await self._send_random()
        await self.aclose()

    async def _create_once(self) -> None:
        """Create GUIDs with an Idempotency-Key; read and delete them, repeat the request, and read them again."""
        count = self._rng.choice(BATCH)
        marks = [self._observations.mark() for _ in range(count or 1)]
        request = Request(marks[0].replace(" ", "-"), marks)
        self._observations.requests.append(request)
        for _ in range(ATTEMPTS):
            if await self._attempt(request, is_batch=count > 0) or self._is_over.is_set():
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
        """Send the request once; return whether no other attempt is needed."""
        operations = [{"user": mark} for mark in request.marks]
        path, body = ("/guid:batch", {"operations": operations}) if is_batch else ("/guid", operations[0])
        start = time.monotonic()
        reply = await self._send("POST", path, body, {"Idempotency-Key": request.key})
        is_done = reply is not None and reply.status < BAD_REQUEST
        results = _results(reply) if is_done and is_batch else [_result(reply)] * len(operations)
        request.attempts.append(Attempt(start, time.monotonic(), self._name, results))
        return is_done and all(result.outcome is not Outcome.UNKNOWN for result in results)

    async def aclose(self) -> None:
        """Close the connection."""
        if self._stream is not None:
            (_, writer), self._stream = self._stream, None
            await hang_up(writer)

    async def read(self, key: str) -> bool:
        """Read a key; return whether there was a reply."""
        start = time.monotonic()
        reply = await self._send("GET", f"/guid/{key}")
        is_found = reply is not None and reply.version is not None
        if reply is None or not (is_found or reply.status == NOT_FOUND):
            return False
        mark = json.loads(reply.body)["user"] if is_found else None
        if is_found:
            self._observations.levels[reply.level] += 1
        self._observations.history.append(Read(key, start, time.monotonic(), self._name, reply.version, mark))
        return True

    async def _send_random(self) -> None:
        if self._rng.random() < REPEATABLE:
            await self._create_once()
            return
        reads = self._rng.random() < READS
        hot = self._rng.random() < (HOT_READS if reads else HOT_WRITES)
        key = KEYS[self._rng.randrange(HOT) if hot else self._rng.randrange(HOT, HOT + COLD)]
        if reads:
            await self.read(key)
            return
        kind, base = self._rng.choice(WRITES), self._observations.versions.get(key)
        if kind == "delete" and base is not None:
            await self._delete(key, base)
        else:
            await self._write(kind, key, base)

    async def _write(self, kind: str, key: str, base: int | None) -> None:
        """Create or update, with or without preconditions."""
        mark = self._observations.mark()
        conditions = {"create": {"If-None-Match": "*"}, "update": {"If-Match": f'"{base or 0}"'}}.get(kind, {})
        start = time.monotonic()
        method = "PATCH" if kind == "patch" else "PUT"
        reply = await self._send(method, f"/guid/{key}", {"user": mark}, conditions)
        end, outcome = time.monotonic(), _outcome(reply)
        version = reply.version if reply and outcome is Outcome.OK else None
        self._observations.history.append(Write(key, start, end, self._name, mark, outcome, version))

    async def _delete(self, key: str, base: int) -> None:
        start = time.monotonic()
        reply = await self._send("DELETE", f"/guid/{key}", None, {"If-Match": f'"{base}"'})
        outcome = _outcome(reply)
        self._observations.history.append(Delete(key, start, time.monotonic(), self._name, base, outcome))

    async def _send(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Reply | None:
        """Send one request; return the reply, or None if there is none."""
        request = _request(method, path, body, headers or {})
        try:
            async with asyncio.timeout(self._rng.choice(PATIENCE_SECONDS)):
                reply = await self._exchange(request)
        except (OSError, EOFError, TimeoutError) as error:
            self._observations.replies[f"{method} {type(error).__name__}"] += 1
            await self.aclose()
            if isinstance(error, ConnectionRefusedError):
                await asyncio.sleep(RECONNECT_SECONDS)
            return None
        self._observations.replies[f"{method} {reply.status}"] += 1
        if reply.version is not None:
            self._observations.versions[path.removeprefix("/guid/")] = reply.version
        return reply

    async def _exchange(self, request: bytes) -> Reply:
        if self._stream is None:
            self._stream = await asyncio.open_connection("127.0.0.1", self._host.port)
        reader, writer = self._stream
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length, version, level = (each.search(head) for each in (_LENGTH, _TAG, _LEVEL))
        body = await reader.readexactly(int(length[1])) if length else b""
        if _CLOSE.search(head):
            await self.aclose()
        return Reply(
            int(head[_STATUS]), int(version[1]) if version else None, level[1].decode() if level else None, body
        )


def _request(method: str, path: str, body: object, headers: Mapping[str, str]) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    length = {} if body is None else {"Content-Type": "application/json", "Content-Length": str(len(content))}
    fields = {"Host": "127.0.0.1"} | length | dict(headers)
    return (
        "\r\n".join([f"{method} {path} HTTP/1.1", *(f"{a}: {b}" for a, b in fields.items()), "", ""]).encode() + content
    )


def _result(reply: Reply | None) -> Result:
    """Return the result of a single creation, or of a batch that failed."""
    if reply is None or reply.status == CONFLICT:  # another attempt is in progress
        return Result(Outcome.UNKNOWN)
    if reply.status != CREATED or reply.version is None:
        return Result(_outcome(reply))
    return Result(Outcome.OK, Created(json.loads(reply.body)["guid"], reply.version))


def _results(reply: Reply | None) -> list[Result]:
    """Return the result of each creation in a batch."""
    assert reply is not None
    return [
        Result(
            _outcome_of(each["status"]), Created(each["guid"], int(each["etag"].strip('"'))) if "etag" in each else None
        )
        for each in json.loads(reply.body)["results"]
    ]


def _outcome(reply: Reply | None) -> Outcome:
    """Return the outcome of a write."""
    return Outcome.UNKNOWN if reply is None else _outcome_of(reply.status)


def _outcome_of(status: int) -> Outcome:
    """Return the outcome for a status. A fault of the service (500) leaves it unknown."""
    if status == GATEWAY_TIMEOUT:
        return Outcome.UNKNOWN
    if status < BAD_REQUEST:
        return Outcome.OK
    is_rejected = status < INTERNAL_SERVER_ERROR or status == SERVICE_UNAVAILABLE
    return Outcome.NO if is_rejected else Outcome.UNKNOWN


@asynccontextmanager
async def load(hosts: list[Host], observations: Observations, rng: random.Random) -> AsyncIterator[None]:
    """Run the clients within the block. At the end each waits for its reply or its timeout."""
    is_over, tasks = asyncio.Event(), []
    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            host = hosts[number % len(hosts)]
            client = Client(f"client {number} of {host.name}", host, observations, random.Random(rng.random()))
            tasks.append(group.create_task(client.run_until(is_over)))
        try:
            yield
        finally:
            is_over.set()
            async with within(LAST_SECONDS, "the last replies to the clients"):
                await asyncio.wait(tasks)


async def read_all(hosts: list[Host], observations: Observations, rng: random.Random, workers: int) -> None:
    """Read each key once more through each worker, on new connections, until there is a reply."""
    for host in hosts:
        for _ in range(workers):
            client = Client(f"the last of {host.name}", host, observations, rng)
            for key in KEYS:
                while not await client.read(key):
                    await asyncio.sleep(RECONNECT_SECONDS)
            await client.aclose()
