"""Grouped puts have the results of single puts, over a real store and cache."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from guidsvc.cache import open_cache
from guidsvc.cache.memory import MemoryCache
from guidsvc.domain import lifecycle
from guidsvc.domain.caller import Caller
from guidsvc.domain.commands import PatchCommand, PutCommand
from guidsvc.domain.lifecycle import RetentionPolicy
from guidsvc.domain.preconditions import ANY, UNCONDITIONAL, Conditions
from guidsvc.domain.record import Record
from guidsvc.errors import GuidsvcError, NotFound, OutcomeUnknown, StoreUnavailable
from guidsvc.runtime.cancel_scope import CURRENT, CancelScope
from guidsvc.runtime.fairness.decoding_turns import READERS
from guidsvc.services.guid_service import GuidService
from guidsvc.services.writes.record_writer import Written
from guidsvc.store import open_store
from guidsvc.store.contract import Swap, TakeTurn
from guidsvc.store.delegating import DelegatingRecords
from guidsvc.store.lease import LeaseClock
from tests.conftest import FakeClock
from tests.support.factories import record

POLICY = RetentionPolicy(lifetime=3600, retention=600)
OWNER = Caller("alice", frozenset({"write", "read"}), "key:alice")
BOB = Caller("bob", frozenset({"write", "read"}), "key:bob")
Put = tuple[str, PutCommand, Conditions]


class Setup:
    """A service, its records and its audit log."""

    def __init__(self, records: MemoryCache, service: GuidService, audit: list[tuple[object, ...]]) -> None:
        self.records = records
        self.service = service
        self.audit = audit

    async def put(self, put: Put) -> Written | Exception:
        """Put alone; return the result or the error."""
        try:
            return await self.service.put(*put)
        except GuidsvcError as error:
            return error


@pytest.fixture
async def setups(tmp_path: Path, clock: FakeClock) -> AsyncIterator[tuple[Setup, Setup]]:
    """Yield a service with group writes, and one over a repository without them."""
    async with AsyncExitStack() as stack:
        created = []
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
                policy=POLICY,
                audit=lambda *line, audit=audit: audit.append(line),
            )
            assert isinstance(cache, MemoryCache)
            created.append(Setup(cache, service.acting_for(OWNER), audit))
        yield created[0], created[1]


def stored_kinds(now: int) -> dict[str, Record | None]:
    """Return a record of each kind that a put may encounter."""
    own = {"owner": "alice", "created": now - 9000_000, "updated": now - 9000_000, "version": now - 9000_000}
    seconds = now // 1000
    live = record(now, **own)
    return {
        "absent": None,
        "live": live,
        "large": record(now, **own, metadata='{"a":"%s"}' % ("x" * 9000)),
        "another's": record(now),
        "expired": record(now, **own, expire=seconds - 10),
        "revoked": record(now, owner="alice", expire=seconds - 10),
        "gone": record(now, **own, expire=seconds - 20, purge_at=seconds - 10),
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


async def test_puts_together_have_the_results_of_single_puts(setups: tuple[Setup, Setup], clock: FakeClock) -> None:
    grouped, single = setups
    puts: list[Put] = []
    for template in stored_kinds(clock()).values():
        for members in CHANGES:
            for conditions in CONDITIONS:
                guid = f"{len(puts):032X}"
                puts.append((guid, PutCommand.model_validate(members), conditions))
                if template is not None:
                    stored = template.model_copy(update={"guid": guid})
                    for setup in setups:
                        assert await setup.records.swap(None, stored)
    cached = [put[0] for put in puts[::2]]
    await asyncio.gather(*(setup.records.get(guid) for guid in cached for setup in setups))

    results = await grouped.service.put_together(puts)
    assert None not in results
    expected = [await single.put(put) for put in puts]

    assert list(map(repr, results)) == list(map(repr, expected))
    assert sorted(map(repr, grouped.audit)) == sorted(map(repr, single.audit))
    for guid, *_ in puts:
        assert await grouped.records.get(guid) == await single.records.get(guid)
    assert await single.service.put_together(puts) == [None] * len(puts), "the repository has no group writes"


def creations(count: int = 3) -> list[Put]:
    """Return puts of new records."""
    change = PutCommand.model_validate({"user": "a"})
    return [(f"{number:032X}", change, UNCONDITIONAL) for number in range(count)]


async def test_put_of_a_guid_in_use_is_left_to_a_single_put(setups: tuple[Setup, Setup]) -> None:
    puts, service = creations(), setups[0].service
    locks = service._writer._locks
    async with locks.acquire(puts[1][0]):
        before, locked, after = await service.put_together(puts)

    assert (type(before), locked, type(after)) == (Written, None, Written)
    assert not locks._locks


async def test_lost_race_is_left_to_a_single_put(setups: tuple[Setup, Setup], monkeypatch: pytest.MonkeyPatch) -> None:
    puts, setup = creations(), setups[0]
    rival = await setups[1].service.put(*puts[1])
    swap_many = setup.records.swap_many

    async def lose(swaps: Sequence[Swap]) -> Sequence[bool | GuidsvcError]:
        assert await setup.records.swap(None, rival.record)
        return await swap_many(swaps)

    monkeypatch.setattr(setup.records, "swap_many", lose)
    results = await setup.service.put_together(puts)

    assert [type(result) for result in results] == [Written, type(None), Written]
    assert await setup.records.get(puts[1][0]) == rival.record
    assert len(setup.audit) == 2


async def test_group_that_waits_for_its_turn_locks_nothing(
    setups: tuple[Setup, Setup], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller of the group may not even write some of these GUIDs."""
    puts, setup = creations(), setups[0]
    read = setup.records.get_many_for_update
    is_waiting, may_read = asyncio.Event(), asyncio.Event()

    async def wait_for_turn(guids: Sequence[str], take_turn: TakeTurn) -> object:
        is_waiting.set()
        await may_read.wait()
        return await read(guids, take_turn)

    monkeypatch.setattr(setup.records, "get_many_for_update", wait_for_turn)
    group = asyncio.ensure_future(setup.service.put_together(puts))
    await is_waiting.wait()
    async with asyncio.timeout(30):
        written = await setup.service.acting_for(BOB).put(*puts[1])
    may_read.set()

    assert written.created
    assert [type(result) for result in await group] == [Written, NotFound, Written]


async def test_refused_change_waits_for_no_turn(setups: tuple[Setup, Setup]) -> None:
    """It would hold the lock meanwhile."""
    setup = setups[0]
    guid = "0" * 32
    large = PutCommand.model_validate({"user": "a", "metadata": {"a": "x" * 9000}})
    await setup.service.put(guid, large, UNCONDITIONAL)
    turns = setup.service._writer._decoding_turns
    async with AsyncExitStack() as stack:
        for _ in range(READERS - 1):
            await stack.enter_async_context(turns.slot(None))
        with pytest.raises(NotFound):
            async with asyncio.timeout(30):
                await setup.service.acting_for(BOB).patch(guid, PatchCommand.model_validate({"metadata": {"b": 1}}))


@pytest.mark.parametrize("error", [OutcomeUnknown("?"), StoreUnavailable("gone"), RuntimeError("a fault")])
async def test_failure_of_the_store_is_the_result_of_each_put(
    setups: tuple[Setup, Setup], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    setup = setups[0]

    async def fail(swaps: Sequence[Swap]) -> Sequence[bool | GuidsvcError]:
        if isinstance(error, GuidsvcError):
            return [error] * len(swaps)
        raise error

    monkeypatch.setattr(setup.records, "swap_many", fail)

    assert await setup.service.put_together(creations()) == [error] * 3
    expected = [] if isinstance(error, StoreUnavailable) else ["unknown"] * 3
    assert [line[3] for line in setup.audit] == expected


async def test_nothing_is_written_in_a_cancelled_scope(setups: tuple[Setup, Setup]) -> None:
    scope = CancelScope()
    scope.cancel(is_disconnected=True)
    CURRENT.set(scope)

    assert await setups[0].service.put_together(creations()) == [None] * 3
    assert await setups[0].records.get(creations()[0][0]) is None


async def test_creations_together_have_a_deadline(setups: tuple[Setup, Setup], monkeypatch: pytest.MonkeyPatch) -> None:
    setup = setups[0]
    deadlines: list[int | None] = []
    swap_many = setup.records.swap_many
    await setup.service.put(*creations()[0])

    async def record_deadlines(swaps: Sequence[Swap]) -> Sequence[bool | GuidsvcError]:
        deadlines.extend(swap.not_after for swap in swaps)
        return await swap_many([swap._replace(not_after=swap.not_after and 0) for swap in swaps])

    monkeypatch.setattr(setup.records, "swap_many", record_deadlines)
    change = PutCommand.model_validate({"user": "b"})
    results = await setup.service.put_together([(guid, change, UNCONDITIONAL) for guid, *_ in creations()])

    assert [type(each) for each in results] == [Written, type(None), type(None)], "the creations came too late"
    assert [deadline is not None for deadline in deadlines] == [False, True, True]
