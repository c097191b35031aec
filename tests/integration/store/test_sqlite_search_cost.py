"""The cost of searches in SQLite, in steps of its virtual machine: bounded, and independent of other owners."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, closing
from itertools import pairwise, product
from pathlib import Path

import pytest

from guidsvc.domain.commands.list_parameters import Position
from guidsvc.domain.record import MAX_TIME, Record
from guidsvc.domain.selection import Selection
from guidsvc.store.sqlite.schema import open_reader, open_writer
from guidsvc.store.sqlite.search.finder import FEW, NEAR, Finder
from guidsvc.store.sqlite.tables import RECORDS, records_of
from tests.conftest import FakeClock
from tests.support.factories import record

LIMIT = 50
MANY = 4 * NEAR
STEPS_PER_ENTRY = 40
"""More steps than any statement needs for one index entry and its row."""
_Search = Callable[[Finder, Selection], Awaitable[object]]
_Create = Callable[[str, range, int], None]


@pytest.fixture
def create(path: Path, clock: FakeClock) -> _Create:
    """Return a function that creates records of an owner with consecutive expiries."""

    def create(owner: str, guids: range, begin: int) -> None:
        template = record(clock(), owner=owner, user="u", purge_at=MAX_TIME)
        changes = [
            RECORDS.change(None, template.model_copy(update={"guid": f"{guid:032X}", "expire": begin + index}))
            for index, guid in enumerate(guids)
        ]
        with closing(open_writer(path)) as writer:
            writer.execute("BEGIN")
            writer.executemany(changes[0].statement, [change.values for change in changes])
            writer.execute("COMMIT")

    return create


class Meter:
    """A finder, and the number of steps of its searches."""

    def __init__(self, path: Path) -> None:
        self.finder = Finder(path)
        self._steps = 0

    def open_reader(self, path: Path) -> sqlite3.Connection:
        connection = open_reader(path)
        connection.set_progress_handler(self._count, 1)
        return connection

    def _count(self) -> None:
        self._steps += 1

    async def steps_of(self, find: _Search, selection: Selection) -> int:
        """Return the steps of a search on a connection that has read the schema."""
        await find(self.finder, selection)
        self._steps = 0
        await find(self.finder, selection)
        return self._steps


@pytest.fixture
async def meter(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Meter]:
    meter = Meter(path)
    monkeypatch.setattr("guidsvc.store.sqlite.search.finder.open_reader", meter.open_reader)
    async with aclosing(meter.finder):
        yield meter


async def by_expire(finder: Finder, selection: Selection) -> list[Record]:
    return await finder.find_by_expire(selection, Position("", 0), LIMIT, records_of)


async def by_key(finder: Finder, selection: Selection) -> list[Record]:
    return await finder.find(selection, "", LIMIT, records_of)


async def count(finder: Finder, selection: Selection) -> int:
    return await finder.count(selection)


SEARCHES: list[tuple[_Search, Selection]] = list(
    product(
        [by_expire, by_key, count],
        [
            Selection(owner="a"),
            Selection(owner="a", user="u"),
            Selection(owner="a", user="nobody"),
            Selection(owner="a", expire_from=500),
            Selection(owner="a", expire_from=500, expire_before=200_000),
            Selection(owner="a", expire_from=500, expire_before=40_000),
            Selection(owner="a", expire_before=40_000),
            Selection(owner="a", expire_from=90_000),
        ],
    )
)


@pytest.mark.parametrize("others_expire", [1_000, 50_000, 100_000], ids=["others_sooner", "at_once", "others_later"])
@pytest.mark.parametrize("own", [20, MANY])
async def test_cost_for_an_owner_hides_the_number_of_others(
    create: _Create, meter: Meter, own: int, others_expire: int
) -> None:
    """Records of others cost nothing: neither the first one, nor those beyond the limits of a way to find a page."""
    create("a", range(own), 50_000)
    for guid, owner in enumerate("AZz", 5_000):  # so that no scan of an owner ends with its index, which saves a step
        create(owner, range(guid, guid + 1), others_expire)
    steps_before = [await meter.steps_of(*each) for each in SEARCHES]
    for begin, end in pairwise([0, 1, NEAR - 20, NEAR - 1, NEAR + 1, FEW - MANY, FEW + 1]):
        create("b", range(10_000 + begin, 10_000 + end), others_expire + begin)
        for each, steps in zip(SEARCHES, steps_before, strict=True):
            assert await meter.steps_of(*each) == steps, (end, each)


@pytest.mark.parametrize("find", [by_expire, by_key])
@pytest.mark.parametrize(
    "selection",
    [
        Selection(owner="a", user="nobody"),
        Selection(owner="a", expire_before=40_000),
        Selection(owner="a", expire_from=500, expire_before=40_000),
    ],
    ids=str,
)
async def test_page_costs_at_most_the_next_entries_and_a_total(
    create: _Create, meter: Meter, find: _Search, selection: Selection
) -> None:
    create("a", range(MANY), 50_000)
    create("b", range(10_000, 10_000 + MANY), 1_000)
    page = await meter.steps_of(find, selection)
    total = await meter.steps_of(count, Selection(owner="a"))

    assert page <= 2 * total + NEAR * STEPS_PER_ENTRY


async def test_page_by_expiry_ends_at_its_bound(create: _Create, meter: Meter) -> None:
    """The upper bound of the expiry ends the scan, although the next entries reach further."""
    create("a", range(20), 1_000)
    create("b", range(10_000, 10_000 + MANY), 1_020)
    selection = Selection(owner="a", expire_before=1_010)
    page = await by_expire(meter.finder, selection)
    assert [item.expire for item in page] == list(range(1_000, 1_010))
    assert await meter.steps_of(by_expire, selection) < 20 * STEPS_PER_ENTRY
