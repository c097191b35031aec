"""The fair semaphore: groups share slots in turn, and no group takes all."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from guidsvc.domain.selection import Selection
from guidsvc.errors import Overloaded
from guidsvc.runtime.fairness.fair_semaphore import FairSemaphore
from guidsvc.store import open_store
from guidsvc.store.sqlite.search.finder import Finder
from tests.support.turn_counter import TurnCounter


class Work:
    """Work that takes slots and lasts until it is ended."""

    def __init__(self, slots: int, *, is_dynamic: bool = False) -> None:
        self.slots = FairSemaphore(slots, is_dynamic=is_dynamic)
        self.running: list[str | None] = []
        self.order: list[str | None] = []
        self._ends: list[asyncio.Event] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def begin(self, *groups: str | None) -> None:
        """Start work for each of these groups; return once the work with a slot runs."""
        self.tasks += [asyncio.create_task(self._do(group)) for group in groups]
        await self.settle()

    async def end_first(self) -> None:
        """End the work that has run the longest."""
        self._ends.pop(0).set()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def _do(self, group: str | None) -> None:
        end = asyncio.Event()
        async with self.slots.slot(group):
            self.running.append(group)
            self.order.append(group)
            self._ends.append(end)
            await end.wait()
            self.running.remove(group)


async def test_groups_get_slots_in_turn_for_queues_of_any_length() -> None:
    work = Work(2)
    await work.begin(*"eeeeee")
    assert work.running == ["e"], "one slot is left for others"
    await work.begin("a", "b", "c")
    assert work.running == ["e", "a"]
    for _ in range(8):
        await work.end_first()
    assert len(work.order) == 9
    assert set("abc") <= set(work.order[:5]), work.order
    await work.end_first()
    assert work.running == []


async def test_groups_leave_as_many_dynamic_slots_free_as_they_hold() -> None:
    work = Work(8, is_dynamic=True)
    await work.begin(*"eeeeeeeaaaaa", "b", "b", "c")
    assert work.running == [*"eeeeaab", "c"], "e alone has half, and the last slot is for a group without one"


async def test_release_of_a_dynamic_place_lets_all_go_on_that_may() -> None:
    work = Work(4, is_dynamic=True)
    await work.begin(*"abba")
    assert work.running == [*"ab"]
    await work.end_first()
    assert work.running == [*"bba"], "b takes the slot of a; a then has none and gets a free one"


async def test_long_queue_of_a_group_rejects_its_next_requests() -> None:
    work = Work(2)
    await work.begin("e")
    work.slots.require_short_queue("e", 0.0, "too many")
    await work.begin("e")
    with pytest.raises(Overloaded, match="too many"):
        work.slots.require_short_queue("e", 0.0, "too many")
    work.slots.require_short_queue("e", 36_000.0, "too many")
    work.slots.require_short_queue("a", 0.0, "too many")
    assert (work.slots.is_available("e"), work.slots.is_available("a")) == (False, True)
    await work.end_first()
    await work.end_first()


async def test_callers_without_owner_form_one_group() -> None:
    work = Work(3)
    await work.begin(None, None, None, "a")
    assert work.running == [None, None, "a"]
    for _ in range(4):
        await work.end_first()
    assert work.order == [None, None, "a", None]


async def test_single_place_is_for_every_group() -> None:
    work = Work(1)
    await work.begin(*"eee")
    await work.begin("a")
    for _ in range(4):
        await work.end_first()
    assert "a" in work.order[:3]


@pytest.mark.parametrize("has_turn", [True, False])
async def test_cancelled_waiter_leaves_its_place_to_others(*, has_turn: bool) -> None:
    work = Work(1)
    await work.begin("e", "a", "b")
    if has_turn:
        work._ends[0].set()
        while work.running:  # its slot has been granted, which is not noticed yet
            await asyncio.sleep(0)
    work.tasks[1].cancel()
    with suppress(asyncio.CancelledError):
        await work.tasks[1]
    if not has_turn:
        await work.end_first()
    await work.settle()
    assert work.running == ["b"]


async def test_searches_of_one_owner_leave_a_thread_to_others(tmp_path: Path) -> None:
    path = tmp_path / "guidsvc.db"
    async with open_store(f"sqlite:///{path}", exclusive=False):
        finder = Finder(path)
        finished_owners: list[str] = []

        async def count(owner: str) -> None:
            await finder.count(Selection(owner=owner))
            finished_owners.append(owner)

        await asyncio.gather(*(count(owner) for owner in "e" * 200 + "a"))
        assert finished_owners.index("a") < 180, (
            "without turns it would be among the last; the bound allows for a busy machine"
        )
        await finder.aclose()


async def test_waiter_cancelled_as_a_place_is_freed_takes_none() -> None:
    work = Work(2)
    await work.begin("a", "a", "a", "b", "b")
    assert work.running == ["a", "b"]
    work._ends.pop(0).set()
    for task in work.tasks[1:3]:
        task.cancel()  # it runs only after the release
    await work.settle()
    for _ in range(3):
        if work._ends:
            await work.end_first()
    results = await asyncio.gather(*work.tasks, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), *[asyncio.CancelledError] * 2, *[type(None)] * 2]
    async with asyncio.timeout(30), work.slots.slot("a"), work.slots.slot("b"):
        pass


async def test_work_in_turns_is_limited_per_iteration_of_the_loop() -> None:
    """Also if all work ends or fails at once; and groups take turns."""
    slots, counter, order = FairSemaphore(4), TurnCounter(), list[str]()
    work = counter.counted(order.append)

    async def take_turn(group: str) -> None:
        await slots.take_turn(group)
        work(group)

    async with counter.following_turns():
        await asyncio.gather(*map(take_turn, "e" * 40 + "a"))
    assert counter.most <= 4
    assert "a" in order[:4]
