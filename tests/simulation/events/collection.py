"""The collections of the simulated MongoDB, as a process accesses them: with the methods of motor that the log uses."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from pymongo import DeleteOne, ReplaceOne, UpdateOne
from pymongo.errors import AutoReconnect, BulkWriteError, NetworkTimeout, PyMongoError

from guidsvc.store.mongo.documents import NOW
from tests.simulation.events.server import Document, Duplicate, Shard
from tests.simulation.network import Network
from tests.simulation.world import World

DRIVER_SECONDS = 2.0
"""Time limit of an operation."""
_DUPLICATE_KEY = 11_000


class Result(NamedTuple):
    """The result of a bulk write."""

    matched_count: int
    deleted_count: int


class Cursor:
    """A query that is sent when its documents are requested."""

    def __init__(self, collection: "SimulatedCollection", wanted: Document, *, has_now: bool = False) -> None:
        self._collection = collection
        self._wanted = wanted
        self._has_now = has_now
        self._sort: tuple[str, int] | None = None
        self._limit = 0
        self._found: list[Document] | None = None

    def sort(self, name: str, direction: int) -> "Cursor":
        self._sort = (name, direction)
        return self

    def limit(self, number: int) -> "Cursor":
        self._limit = number
        return self

    def hint(self, _: str) -> "Cursor":
        return self

    batch_size = hint

    async def close(self) -> None:
        """Do nothing: all documents arrived at once."""

    async def to_list(self, length: int | None) -> list[Document]:
        found = await self._collection.documents(self._wanted, has_now=self._has_now)
        if self._sort is not None:
            name, direction = self._sort
            found.sort(key=lambda each: _at(each, name), reverse=direction < 0)
        ends = [each for each in (self._limit, length) if each]
        return found[: min(ends)] if ends else found

    def __aiter__(self) -> "Cursor":
        """Return the cursor itself."""
        return self

    async def __anext__(self) -> Document:
        """Return the next document."""
        if self._found is None:
            self._found = await self.to_list(None)
        if not self._found:
            raise StopAsyncIteration
        return self._found.pop(0)


def _at(document: Document, path: str) -> Any:
    value: Any = document
    for name in path.split("."):
        value = value[name]
    return value


class SimulatedCollection:
    """A collection as one process accesses it, with the methods of motor that the log uses."""

    def __init__(self, world: World, shard: Shard, name: str, network: Network, *, is_local: bool = False) -> None:
        self._world, self._shard, self._name, self._network = world, shard, name, network
        self._is_local = is_local

    def with_options(self, *, read_concern: Any) -> "SimulatedCollection":
        is_local = read_concern.level == "local"
        return SimulatedCollection(self._world, self._shard, self._name, self._network, is_local=is_local)

    def find(self, wanted: Document, projection: Document | None = None) -> Cursor:  # more does no harm
        return Cursor(self, wanted)

    def aggregate(self, pipeline: Sequence[Document], *, batchSize: int, hint: str = "") -> Cursor:  # noqa: N803  # the driver's name
        """Run the pipeline of the sequencer: match, sort, limit, and a projection with the time of the server."""
        match, sort, limit, project = (argument for stage in pipeline for argument in stage.values())
        ((name, direction),) = sort.items()
        assert project["now"] == NOW
        return Cursor(self, match, has_now=True).sort(name, direction).limit(limit)

    async def find_one(self, wanted: Document, projection: Document | None = None) -> Document | None:
        found = await self.documents(wanted)
        return found[0] if found else None

    async def documents(self, wanted: Document, *, has_now: bool = False) -> list[Document]:
        """Return all documents that match, each with the time of the server if `has_now`."""

        def find() -> list[Document]:
            found = self._shard.find(self._name, wanted, is_local=self._is_local)
            return [each | {"now": self._shard.now_ms} for each in found] if has_now else found

        found: list[Document] = await self._run_remotely(find, 0.0)
        return found

    async def insert_many(self, documents: Sequence[Document], *, ordered: bool = True) -> None:
        """Insert documents one by one. Other processes may write in between."""
        faults: list[Document] = []

        async def insert(term: int) -> None:
            for index, document in enumerate(documents):
                try:
                    self._shard.insert(self._name, document)
                except Duplicate:
                    faults.append({"index": index, "code": _DUPLICATE_KEY})
                    if ordered:
                        return
                await self._pause(term)

        await self._write(insert)
        if faults:
            raise BulkWriteError({"writeErrors": faults, "writeConcernErrors": []})

    async def update_one(self, wanted: Document, update: Any) -> Result:
        return await self.bulk_write([UpdateOne(wanted, update)])

    async def delete_many(self, wanted: Document) -> None:
        async def delete(term: int) -> None:
            while self._shard.delete(self._name, wanted):
                await self._pause(term)

        await self._write(delete)

    async def bulk_write(
        self, operations: Sequence[UpdateOne | ReplaceOne[Document] | DeleteOne], *, ordered: bool = True
    ) -> Result:
        """Execute updates, replacements by `_id` and deletions one by one. Other processes may write in between."""
        matched = deleted = 0

        async def do(term: int) -> None:
            nonlocal matched, deleted
            for each in operations:
                if isinstance(each, UpdateOne):
                    matched += self._shard.update(self._name, dict(each._filter), each._doc)
                elif isinstance(each, ReplaceOne):
                    self._shard.replace(self._name, dict(each._doc))
                else:
                    deleted += self._shard.delete(self._name, dict(each._filter))
                await self._pause(term)

        await self._write(do)
        return Result(matched, deleted)

    async def _pause(self, term: int) -> None:
        """Let others run between two statements of a command; raise AutoReconnect if the primary fails meanwhile."""
        if self._world.random.random() < 0.1:
            await asyncio.sleep(0.01 * self._world.random.random())
        if self._shard.term != term:
            raise AutoReconnect("the primary has failed")

    async def _write(self, work: Callable[[int], Awaitable[None]]) -> None:
        async def write() -> PyMongoError | None:
            term = self._shard.term
            try:
                await work(term)
            except AutoReconnect as error:
                return error
            return None if await self._shard.majority(term) else AutoReconnect("the primary has failed")

        await self._run_remotely(write, self._network.straggle())

    async def _run_remotely(self, work: Callable[[], Any], straggle: float) -> Any:
        done = await self._world.run_far(self._network, work, NetworkTimeout("no answer"), DRIVER_SECONDS, straggle)
        if isinstance(done, PyMongoError):
            raise done
        return done
