"""Damaged events in the log, on each store: pages of one owner come to them, and do not stand still before them."""

import sqlite3
from contextlib import closing
from typing import Any

import pymongo
import pytest

from guidsvc.store import open_store
from guidsvc.store.sqlite.store import path_of_url
from tests.conftest import ExpectedLogs, FakeClock, Serving
from tests.support.assertions import assert_problem
from tests.support.event_shares import create_of
from tests.support.secured_service import SecuredService


@pytest.fixture(params=["sqlite", "mongo"])
def store_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue("mongo_url" if request.param == "mongo" else "sqlite_url")
    return url


def damage(url: str, number: int) -> None:
    """Make an entry of the log invalid, past the store."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(path_of_url(url), isolation_level=None)) as file:
            file.execute("UPDATE log SET kind = 'weird' WHERE seq = ?", (number,))
    else:
        with pymongo.MongoClient[dict[str, Any]](url) as mongo:
            mongo.get_default_database()["log"].update_one({"_id": number}, {"$set": {"kind": "weird"}})


async def test_pages_of_an_owner_come_past_a_damaged_event(
    serving: Serving, store_url: str, redis_url: str, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    """The event before the damage belongs to another owner, and a cursor behind it is not lasting."""
    expected_logs.add("event log damaged", "event invalid, it cannot be read")
    async with open_store(store_url, exclusive=False) as store:
        for owner in ("bob", "alice", "bob", "bob"):
            await create_of(store.records, store.events, clock, owner, 1)
    damage(store_url, 3)

    async with serving(access="keys", login_limit="", store_url=store_url, cache_url=redis_url) as client:
        bob = await SecuredService(client, store_url, clock).key_client("bob")
        first = await bob.ask("GET", "/events")
        assert (len(first.json["items"]), first.json["more"]) == (1, True)
        second = await bob.ask("GET", f"/events?cursor={first.json['next']}")
        for _ in range(3):
            if second.status == 410:
                break
            assert second.json["items"] == []
            second = await bob.ask("GET", f"/events?cursor={second.json['next']}")
        assert_problem(second, 410, "events-gone")
        assert second.json["reason"] == "trimmed"
        rest = await bob.ask("GET", f"/events?cursor={second.json['oldest']}")
        assert (len(rest.json["items"]), rest.json["more"]) == (1, False)
