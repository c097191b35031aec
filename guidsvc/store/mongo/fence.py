"""The cache fence in MongoDB: one document, read linearizably, whose reading also tells the clock of the server."""

from functools import partial

from guidsvc.errors import CorruptRecord
from guidsvc.runtime.background import SingleFlight
from guidsvc.runtime.clock import continuous_clock
from guidsvc.store.cache_fence import Fence, FenceReading, Mode
from guidsvc.store.mongo.bulkhead import Bulkheads
from guidsvc.store.mongo.deadline import StoreClock
from guidsvc.store.mongo.documents import NOW, Document
from guidsvc.store.mongo.failures import read_failures, write_failures
from guidsvc.store.mongo.repository import Collection, linearizable

FENCE_ID = "records"


class MongoFence:
    """The fence. Each reading sets `clock`, and proves that its primary is the only one."""

    def __init__(self, collection: Collection, bulkheads: Bulkheads) -> None:
        self._collection = linearizable(collection)
        self.bulkheads = bulkheads
        self.clock = StoreClock()
        self._clock_reading = SingleFlight(self.read)

    async def require_clock(self, seconds: float) -> None:
        """Read the fence if no reading of the clock is that recent. Concurrent calls share one read."""
        if not self.clock.is_known(seconds):
            await self._clock_reading.run()

    async def read(self) -> FenceReading:
        asked = continuous_clock()
        pipeline: list[Document] = [{"$match": {"_id": FENCE_ID}}, {"$addFields": {"now": NOW}}]
        with read_failures():
            documents = await self.bulkheads.reads.run(lambda: self._collection.aggregate(pipeline).to_list(1))
        if not documents:
            raise CorruptRecord("the store has no fence; restart all processes that use it")
        (found,) = documents
        self.clock.set(asked, found["now"])
        return FenceReading(Fence(Mode(found["mode"]), found["gen"], found["boot"]), found["now"])

    async def swap(self, old: Fence, new: Fence) -> bool:
        update = partial(self._collection.update_one, fence_document(old), {"$set": fence_document(new)})
        with write_failures():
            done = await self.bulkheads.updates.run(update)
        return bool(done.matched_count == 1)


def fence_document(fence: Fence) -> Document:
    """Convert a fence to the fields of its document."""
    return {"mode": fence.mode, "gen": fence.gen, "boot": fence.epoch}
