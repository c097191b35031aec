"""Lists and totals of one client hardly delay those of another: clients take turns."""

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Any, cast

import pytest

from guidsvc.api.execution.pipeline import queue_name
from guidsvc.domain.caller import ANYONE
from guidsvc.domain.commands import ListQuery
from guidsvc.domain.lifecycle import RetentionPolicy
from guidsvc.domain.selection import Selection
from guidsvc.runtime.cancel_scope import CancelScope
from guidsvc.services.guid_service import GuidService
from guidsvc.services.listing import TOTALS, RecordListing
from guidsvc.store import open_store
from guidsvc.store.contract import RecordRepository
from guidsvc.store.delegating import DelegatingRecords
from guidsvc.store.lease import LeaseClock
from guidsvc.store.sqlite.search.finder import Finder
from guidsvc.store.sqlite.store import path_of_url
from tests.conftest import ExpectedLogs, FakeClock, Serving
from tests.support.api_context import request_pipeline
from tests.support.factories import GUID, USER
from tests.support.http_client import Client, hang_up, read_reply

REQUESTS = 48
POLICY = RetentionPolicy(lifetime=3600, retention=600)
MANY = """
    WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 50000)
    INSERT INTO records (guid, user, owner, expire, version, created, updated, purge_at)
    SELECT printf('%032X', n), 'a', '', :expire, :version, :version, :version, :expire FROM numbers
"""


class Lists:
    """Lists with totals, of which none is searched before all are sent. The one under test is sent last."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._may_begin = asyncio.Event()
        self._sent = 0
        self._finished: list[str] = []
        search = Finder._search

        async def search_after_all_are_sent(finder: Finder, work: Any) -> Any:
            await self._may_begin.wait()
            return await search(finder, work)

        monkeypatch.setattr(Finder, "_search", search_after_all_are_sent)

    async def ask(self, client: Client, heads: Sequence[tuple[str, str]], *, last: tuple[str, str]) -> list[str]:
        """Send requests, each from an address with a head; return the heads in the order of their responses."""
        tasks = [asyncio.create_task(self._get(client.port, *each)) for each in (*heads, last)]
        while self._sent < len(tasks):
            await asyncio.sleep(0)
        assert (await client.get("/version")).status == 200  # sent later, so the others have been read
        self._may_begin.set()
        await asyncio.gather(*tasks)
        return self._finished

    async def _get(self, port: int, address: str, head: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
        writer.write(f"GET {head}\r\nHost: x\r\nPrefer: return=total-count\r\n\r\n".encode())
        self._sent += 1
        assert (await read_reply(reader, "GET")).status == 200
        self._finished.append(head)
        await hang_up(writer)


@pytest.mark.parametrize("owner", ["", "&owner=x{}"])
async def test_without_access_control_addresses_take_turns(
    serving: Serving, sqlite_url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, owner: str
) -> None:
    paths = [f"/guid?limit=1&state=all{owner.format(number)}" for number in range(REQUESTS)]
    last = "/guid?limit=1 HTTP/1.1"
    async with serving(queue_timeout=60) as client:
        with closing(sqlite3.connect(path_of_url(sqlite_url))) as database, database:
            database.execute(MANY, {"expire": clock() // 1000 + 3600, "version": clock()})
        heads = [("127.0.0.1", f"{path} HTTP/1.1") for path in paths]
        finished = await Lists(monkeypatch).ask(client, heads, last=("127.0.0.2", last))
        assert finished.index(last) < REQUESTS // 2


async def test_addresses_of_one_ipv6_network_are_one_caller(
    serving: Serving, sqlite_url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = "/guid?limit=1&state=all HTTP/1.1\r\nX-Forwarded-For: {}"
    last = head.format("2001:db8:1::")
    async with serving(trusted_proxies="127.0.0.1", queue_timeout=60) as client:
        with closing(sqlite3.connect(path_of_url(sqlite_url))) as database, database:
            database.execute(MANY, {"expire": clock() // 1000 + 3600, "version": clock()})
        heads = [("127.0.0.1", head.format(f"2001:db8::{number:x}")) for number in range(REQUESTS)]
        finished = await Lists(monkeypatch).ask(client, heads, last=("127.0.0.1", last))
        assert finished.index(last) < REQUESTS // 2


@pytest.mark.parametrize(
    ("address", "name"), [("2001:db8::1", "2001:db8::/64"), ("192.0.2.1", "192.0.2.1"), ("unix", "unix")]
)
def test_caller_without_owner_is_named_by_its_network(address: str, name: str) -> None:
    assert queue_name(None, address) == request_pipeline().probable_caller(None, address) == name


async def test_login_takes_the_turns_of_its_network() -> None:
    callers: list[str | None] = []

    class Logins:
        async def authenticate(self, *_: object) -> None:
            callers.append(scope.caller)

    scope = CancelScope()
    pipeline = request_pipeline(authenticator=cast(Any, Logins()))
    await pipeline.authenticate("Bearer x", "2001:db8::1", scope)
    assert (callers, scope.caller) == (["2001:db8::/64"], None)


class SlowCounts(DelegatingRecords):
    """Records whose count never returns."""

    started = 0

    async def count(self, selection: Selection) -> int:
        self.started += 1
        await asyncio.Event().wait()
        return 0


async def test_totals_of_one_caller_leave_a_slot_to_the_others(sqlite_url: str, clock: FakeClock) -> None:
    async with open_store(sqlite_url, exclusive=True) as store:
        records, query = SlowCounts(store.records), ListQuery.model_validate({})
        service = GuidService(records, LeaseClock(store.fence), clock=clock, generator=lambda _: "", policy=POLICY)
        slots = service.list_slots(query, has_total=True)

        async def count() -> None:
            async with slots.slot("192.0.2.1"):
                await service.count(query, "192.0.2.1")

        totals = [asyncio.create_task(count()) for _ in range(2 * TOTALS)]
        async with asyncio.timeout(30), slots.slot("192.0.2.2"):
            page = await service.find(query, "192.0.2.2")
        assert page.records == []
        assert records.started == TOTALS - 1
        for task in totals:
            task.cancel()
        await asyncio.gather(*totals, return_exceptions=True)


class SlowSearches:
    """Delays each search of SQLite by a tenth of a second, and counts the searches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started = 0
        search = Finder._search

        async def slow_search(finder: Finder, work: Any) -> Any:
            self.started += 1
            await asyncio.sleep(0.1)
            return await search(finder, work)

        monkeypatch.setattr(Finder, "_search", slow_search)


@pytest.mark.both_servers
async def test_totals_that_begin_are_answered_however_many_wait(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs
) -> None:
    """Beyond what the threads can do in time, totals are rejected before any work; other requests are not affected."""
    expected_logs.add("overloaded, rejecting requests")
    searches = SlowSearches(monkeypatch)
    headers = {"X-Forwarded-For": "192.0.2.1", "Prefer": "return=total-count"}
    async with serving(trusted_proxies="127.0.0.1", queue_timeout=1) as client:
        clients = [Client(client.port) for _ in range(8)]
        tasks = [
            asyncio.create_task(list_client.ask("GET", "/guid", headers=headers))
            for list_client in clients
            for _ in range(50)
        ]
        async with asyncio.timeout(30):
            while searches.started < TOTALS:
                await asyncio.sleep(0.01)
        assert (await client.put(f"/guid/{GUID}", {"user": USER})).status == 201
        statuses = [(await task).status for task in tasks]
        assert set(statuses) == {200, 503}
        assert searches.started == 2 * statuses.count(200), "a count and a page for each response"
        assert (await client.get("/guid")).status == 200
        for list_client in clients:
            await list_client.aclose()


@pytest.mark.parametrize(("query", "has_total"), [({}, True), ({"sort": "expire", "user": "a"}, False)])
def test_pages_that_cost_a_count_take_the_slots_of_totals(query: dict[str, str], *, has_total: bool) -> None:
    listing = RecordListing(cast(RecordRepository, None), FakeClock())
    assert listing.slots(ListQuery.model_validate(query), ANYONE, has_total=has_total) is listing._totals
    assert listing.slots(ListQuery.model_validate({}), ANYONE, has_total=False) is listing._pages
