"""Client caches, by opt-in: `--max-age`."""

import pytest

from tests.conftest import FakeClock, Serving
from tests.support.factories import GUID, USER

pytestmark = [pytest.mark.all_backends, pytest.mark.both_servers]

PATH = f"/guid/{GUID}"


async def test_clients_may_cache_a_record_that_lives_long_enough(
    serving: Serving, combination: dict[str, str], clock: FakeClock
) -> None:
    async with serving(**combination, max_age=10) as client:
        clock.now = clock.seconds * 1000
        created = await client.put(PATH, {"user": USER, "ttl": 60})
        assert created.headers["Cache-Control"] == "private, no-cache"
        condition = {"If-None-Match": created.headers["ETag"]}
        for remaining, expected in ((60, "private, max-age=10"), (10, "private, max-age=10"), (9, "private, no-cache")):
            clock.now = (int(created.json["expire"]) - remaining) * 1000
            for _ in range(2):
                for path, headers in (
                    (PATH, {}),
                    (PATH, condition),
                    (f"{PATH}?view=full", {}),
                ):
                    for method in ("GET", "HEAD"):
                        reply = await client.ask(method, path, headers=headers)
                        assert reply.headers["Cache-Control"] == expected, (remaining, path, method)
                        assert reply.headers["Vary"] == "Accept, Authorization"
        page = await client.get(PATH, headers={"Accept": "text/html"})
        assert page.headers["Cache-Control"] == "no-store"


async def test_no_client_caches_a_read_longer_than_its_valid_for_holds(
    serving: Serving, combination: dict[str, str], clock: FakeClock
) -> None:
    async with serving(**combination, max_age=10) as client:
        clock.now = clock.seconds * 1000
        created = await client.put(PATH, {"user": USER, "ttl": 60})
        condition = {"If-None-Match": created.headers["ETag"]}
        for remaining, expected in ((15, "private, max-age=10"), (14, "private, no-cache")):
            clock.now = (int(created.json["expire"]) - remaining) * 1000
            for _ in range(2):
                for query, headers in (("", {}), ("", condition), ("&view=full", {})):
                    for method in ("GET", "HEAD"):
                        reply = await client.ask(method, f"{PATH}?valid_for=5{query}", headers=headers)
                        assert reply.headers["Cache-Control"] == expected, (remaining, query, method)


async def test_clients_ask_each_time_by_default(serving: Serving, combination: dict[str, str]) -> None:
    async with serving(**combination) as client:
        await client.put(PATH, {"user": USER})
        for _ in range(2):
            reply = await client.get(PATH)
            assert (reply.headers["Cache-Control"], "Vary" in reply.headers) == ("private, no-cache", False)
