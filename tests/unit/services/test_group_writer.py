"""Puts of several records at once do what each would do alone, over a real store and cache."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from guidsvc.cache import open_cache
from guidsvc.cache.memory import MemoryCache
from guidsvc.domain import lifecycle
from guidsvc.domain.caller import Caller
from guidsvc.domain.commands import PutCommand
from guidsvc.domain.lifecycle import RetentionPolicy
from guidsvc.domain.preconditions import ANY, UNCONDITIONAL, Conditions
from guidsvc.domain.record import Record
from guidsvc.errors import GuidsvcError, OutcomeUnknown, StoreUnavailable
from guidsvc.runtime.cancel_scope import CURRENT, CancelScope
from guidsvc.services.guid_service import GuidService
from guidsvc.services.writes.record_writer import Written
from guidsvc.store import open_store
from guidsvc.store.contract import Swap
from guidsvc.store.delegating import DelegatingRecords
from guidsvc.store.lease import LeaseClock
from tests.conftest import FakeClock
from tests.support.factories import record

TERMS = RetentionPolicy(lifetime=3600, retention=600)
OWNER = Caller("alice", frozenset({"write", "read"}), "key:alice")
Put = tuple[str, PutCommand, Conditions]


class World:
    """A service, its records, and its audit log."""

    def __init__(self, records: MemoryCache, service: GuidService, audit: list[tuple[object, ...]]) -> None:
        self.records = records
        self.service = service
        self.audit = audit

    async def put(self, put: Put) -> Written | Exception:
        """Put alone; return the error that it raises."""
        try:
            return await self.service.put(*put)
        except GuidsvcError as error:
            return error


@pytest.fixture
async def worlds(tmp_path: Path, clock: FakeClock) -> AsyncIterator[tuple[World, World]]:
    """Yield a service that puts together, and one over a repository that cannot."""
    async with AsyncExitStack() as stack:
        made = []
        for name in ("together", "alone"):
            store = await stack.enter_async_context(open_store(f"sqlite:///{tmp_path / name}", exclusive=True))
            opened = open_cache("memory://", store, clock=clock, size_bytes=2**20)
            cache = await stack.enter_async_context(opened)
            audit: list[tuple[object, ...]] = []
            service = GuidService(
                cache if name == "together" else DelegatingRecords(cache),
                LeaseClock(store.fence),
                clock=clock,
                generator=lambda _: "0" * 32,
                policy=TERMS,
                audit=lambda *line, audit=audit: audit.append(line),
            )
            assert isinstance(cache, MemoryCache)
            made.append(World(cache, service.acting_for(OWNER), audit))
        yield made[0], made[1]


def stored_kinds(now: int) -> dict[str, Record | None]:
    """Return a record of each kind that a put may find."""
    mine = {"owner": "alice", "created": now - 9000_000, "updated": now - 9000_000, "version": now - 9000_000}
    seconds = now // 1000
    live = record(now, **mine)
    return {
        "absent": None,
        "live": live,
        "large": record(now, **mine, metadata='{"a":"%s"}' % ("x" * 9000)),
        "another's": record(now),
        "expired": record(now, **mine, expire=seconds - 10),
        "revoked": record(now, owner="alice", expire=seconds - 10),
        "gone": record(now, **mine, expire=seconds - 20, purge_at=seconds - 10),
        "deleted": lifecycle.delete(live, now),
    }


CHANGES = [
    {"user": "Zürich"},
    {"expire": 4_102_444_800, "metadata": {"a": 1}},
    {"user": "Cylance, Inc."},
    {"expire": 0},
    {},
]
CONDITIONS = [
    UNCONDITIONAL,
    Conditions(if_match=ANY),
    Conditions(if_none_match=ANY),
    Conditions(if_match=frozenset("7")),
]


async def test_puts_together_have_the_results_of_single_puts(worlds: tuple[World, World], clock: FakeClock) -> None:
    together, alone = worlds
    puts: list[Put] = []
    for kept in stored_kinds(clock()).values():
        for members in CHANGES:
            for conditions in CONDITIONS:
                guid = f"{len(puts):032X}"
                puts.append((guid, PutCommand.model_validate(members), conditions))
                if kept is not None:
                    stored = kept.model_copy(update={"guid": guid})
                    for world in worlds:
                        assert await world.records.swap(None, stored)
    cached = [put[0] for put in puts[::2]]
    await asyncio.gather(*(world.records.get(guid) for guid in cached for world in worlds))

    results = await together.service.put_together(puts)
    assert None not in results
    expected = [await alone.put(put) for put in puts]

    assert list(map(repr, results)) == list(map(repr, expected))
    assert sorted(map(repr, together.audit)) == sorted(map(repr, alone.audit))
    for guid, *_ in puts:
        assert await together.records.get(guid) == await alone.records.get(guid)
    assert await alone.service.put_together(puts) == [None] * len(puts), "it cannot"


def creations(count: int = 3) -> list[Put]:
    """Return puts of new records."""
    change = PutCommand.model_validate({"user": "a"})
    return [(f"{number:032X}", change, UNCONDITIONAL) for number in range(count)]


async def test_put_of_a_guid_in_use_is_left_to_a_single_put(worlds: tuple[World, World]) -> None:
    puts, service = creations(), worlds[0].service
    locks = service._writer._locks
    async with locks.acquire(puts[1][0]):
        first, held, last = await service.put_together(puts)

    assert (type(first), held, type(last)) == (Written, None, Written)
    assert not locks._locks


async def test_lost_race_is_left_to_a_single_put(worlds: tuple[World, World], monkeypatch: pytest.MonkeyPatch) -> None:
    puts, world = creations(), worlds[0]
    other = await worlds[1].service.put(*puts[1])
    swap_many = world.records.swap_many

    async def lose(swaps: Sequence[Swap]) -> Sequence[bool | GuidsvcError]:
        assert await world.records.swap(None, other.record)
        return await swap_many(swaps)

    monkeypatch.setattr(world.records, "swap_many", lose)
    results = await world.service.put_together(puts)

    assert [type(each) for each in results] == [Written, type(None), Written]
    assert await world.records.get(puts[1][0]) == other.record
    assert len(world.audit) == 2


@pytest.mark.parametrize("error", [OutcomeUnknown("?"), StoreUnavailable("gone"), RuntimeError("a fault")])
async def test_failure_of_the_store_is_the_result_of_each_put(
    worlds: tuple[World, World], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    world = worlds[0]

    async def fail(swaps: Sequence[Swap]) -> Sequence[bool | GuidsvcError]:
        if isinstance(error, GuidsvcError):
            return [error] * len(swaps)
        raise error

    monkeypatch.setattr(world.records, "swap_many", fail)

    assert await world.service.put_together(creations()) == [error] * 3
    expected = [] if isinstance(error, StoreUnavailable) else ["unknown"] * 3
    assert [line[3] for line in world.audit] == expected


async def test_nothing_is_written_in_a_cancelled_scope(worlds: tuple[World, World]) -> None:
    scope = CancelScope()
    scope.cancel(is_disconnected=True)
    CURRENT.set(scope)

    assert await worlds[0].service.put_together(creations()) == [None] * 3
    assert await worlds[0].records.get(creations()[0][0]) is None


async def test_creations_together_have_a_deadline(worlds: tuple[World, World], monkeypatch: pytest.MonkeyPatch) -> None:
    world = worlds[0]
    deadlines: list[int | None] = []
    swap_many = world.records.swap_many
    await world.service.put(*creations()[0])

    async def note(swaps: Sequence[Swap]) -> Sequence[bool | GuidsvcError]:
        deadlines.extend(swap.not_after for swap in swaps)
        return await swap_many([swap._replace(not_after=swap.not_after and 0) for swap in swaps])

    monkeypatch.setattr(world.records, "swap_many", note)
    change = PutCommand.model_validate({"user": "b"})
    results = await world.service.put_together([(guid, change, UNCONDITIONAL) for guid, *_ in creations()])

    assert [type(each) for each in results] == [Written, type(None), type(None)], "the creations came too late"
    assert [deadline is not None for deadline in deadlines] == [False, True, True]
