"""A MongoDB of two shards: one holds the records, the other the log and its bounds.

The primary executes a write, and acknowledges it once a majority has it. Until then no read shows it. If the primary
fails before that, the write may be undone. SecantusDB's engine evaluates filters and updates.
"""

import asyncio
import copy
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, NamedTuple

from pymongo import IndexModel
from secantus.query import matches
from secantus.update import apply_update

from tests.simulation.world import World

EPOCH_MS = 1_700_000_000_000
Document = dict[str, Any]


class Applied(NamedTuple):
    """A change of a document, which a majority may not have yet. The document is None if it was deleted."""

    collection: str
    id: Any
    document: Document | None
    at_ms: int


class Duplicate(Exception):
    """A unique key that exists already."""


class Shard:
    """A replica set: the documents on its primary, and those that a majority has."""

    def __init__(
        self, world: World, indexes: dict[str, Sequence[IndexModel]], on_commit: Callable[[Applied], None]
    ) -> None:
        self._world = world
        self._random = Random(world.random.random())
        self._on_commit = on_commit
        self._unique = {name: _unique_keys(models) for name, models in indexes.items()}
        self._primary: dict[str, dict[Any, Document]] = {name: {} for name in indexes}
        self._majority: dict[str, dict[Any, Document]] = {name: {} for name in indexes}
        self._tail: list[Applied] = []
        self._committed = 0
        self._waiting: list[tuple[int, asyncio.Future[bool]]] = []
        self.term = 0
        """Number of primaries so far. A command fails with its primary."""
        self._offset_ms = 0.0
        self.commit_seconds = 0.002
        """Maximum time until a majority has a write."""

    @property
    def now_ms(self) -> int:
        """The time by the clock of the primary, in Unix milliseconds."""
        return int(EPOCH_MS + 1000 * self._world.now + self._offset_ms)

    def fail_over(self) -> None:
        """Make another member the primary. It may lack changes without a majority, and its clock differs slightly."""
        kept = self._random.randint(0, len(self._tail))
        self._commit_to(self._committed + kept)
        self._tail.clear()
        self._primary = {name: dict(documents) for name, documents in self._majority.items()}
        self.term += 1
        self._offset_ms = self._random.uniform(-300, 300)
        for _, future in self._waiting:
            if not future.done():
                future.set_result(False)
        self._waiting.clear()

    def find(self, collection: str, wanted: Document, *, is_local: bool = False) -> list[Document]:
        """Return the documents that match, as a majority has them, or as the primary has them."""
        documents = (self._primary if is_local else self._majority)[collection]
        now = self._vars()
        return [each for each in documents.values() if matches(each, wanted, vars=now)]  # which nobody changes

    def insert(self, collection: str, document: Document) -> None:
        """Insert a document; Duplicate if one of its unique keys exists."""
        documents = self._primary[collection]
        keys = {names: tuple(document[name] for name in names) for names in self._unique[collection]}
        is_there = any(
            tuple(each[name] for name in names) == key for names, key in keys.items() for each in documents.values()
        )
        if document["_id"] in documents or is_there:
            raise Duplicate
        self._apply(collection, document["_id"], copy.deepcopy(document))

    def update(self, collection: str, wanted: Document, update: Any) -> bool:
        """Update the document that matches; return whether there is one."""
        found = self._one(collection, wanted)
        if found is None:
            return False
        changed = apply_update(copy.deepcopy(found), copy.deepcopy(update), let=self._vars())
        if changed != found:
            self._apply(collection, found["_id"], changed)
        return True

    def replace(self, collection: str, document: Document) -> None:
        """Replace the document with this `_id`, or insert it."""
        self._apply(collection, document["_id"], copy.deepcopy(document))

    def delete(self, collection: str, wanted: Document) -> bool:
        """Delete a document that matches; return whether there is one."""
        found = self._one(collection, wanted)
        if found is None:
            return False
        self._apply(collection, found["_id"], None)
        return True

    async def majority(self, term: int) -> bool:
        """Wait until a majority has all writes of a term so far; return whether it got them."""
        if term != self.term or not self._tail:
            return term == self.term
        future: asyncio.Future[bool] = self._world.create_future()
        self._waiting.append((self._committed + len(self._tail), future))
        return await future

    def _one(self, collection: str, wanted: Document) -> Document | None:
        documents = self._primary[collection]
        if "_id" in wanted and not isinstance(wanted["_id"], dict):
            documents = {each: documents[each] for each in (wanted["_id"],) if each in documents}
        return next((each for each in documents.values() if matches(each, wanted, vars=self._vars())), None)

    def _vars(self) -> dict[str, Any]:
        return {"NOW": datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=self.now_ms)}

    def _apply(self, collection: str, key: Any, document: Document | None) -> None:
        _put(self._primary[collection], key, document)
        self._tail.append(Applied(collection, key, document, int(EPOCH_MS + 1000 * self._world.now)))
        upto = self._committed + len(self._tail)
        self._world.outside(self.commit_seconds * self._random.random(), self._commit, upto, self.term)

    def _commit(self, upto: int, term: int) -> None:
        if term == self.term:
            self._commit_to(upto)

    def _commit_to(self, upto: int) -> None:
        while self._committed < upto:
            applied = self._tail.pop(0)
            self._committed += 1
            _put(self._majority[applied.collection], applied.id, applied.document)
            self._on_commit(applied)
        for index, future in self._waiting:
            if index <= self._committed and not future.done():
                future.set_result(True)
        self._waiting = [each for each in self._waiting if not each[1].done()]


def _put(documents: dict[Any, Document], key: Any, document: Document | None) -> None:
    if document is None:
        documents.pop(key, None)
    else:
        documents[key] = document


def _unique_keys(models: Sequence[IndexModel]) -> list[tuple[str, ...]]:
    return [tuple(model.document["key"]) for model in models if model.document.get("unique")]
