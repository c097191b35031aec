"""Access control of plain reads that Redis answers without a task, also if rights end while a read waits for Redis."""

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest

from guidsvc.auth import authenticator
from guidsvc.auth import session as sessions
from guidsvc.runtime.clock import continuous_clock
from tests.conftest import FakeClock, Serving
from tests.support.factories import GUID, USER
from tests.support.http_client import Reply
from tests.support.secured_service import KeyClient, SecuredService
from tests.support.waiting_reads import WaitingReads

pytestmark = pytest.mark.slow

PATH, ABSENT = f"/guid/{GUID}", f"/guid/{'0' * 32}"
LIMIT = 100
SESSION_SECONDS = 600.0
"""How long a session lasts here: it ends only if the test moves its clock."""


class SessionClock:
    """The clock by which sessions end, which the test moves on."""

    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> float:
        return continuous_clock() + self.offset


@pytest.fixture
def session_clock(monkeypatch: pytest.MonkeyPatch) -> SessionClock:
    clock = SessionClock()
    for module in (sessions, authenticator):
        monkeypatch.setattr(module, "continuous_clock", clock)
    monkeypatch.setattr(sessions, "GOOD_SECONDS", SESSION_SECONDS)
    monkeypatch.setattr(sessions, "FRESH_SECONDS", SESSION_SECONDS / 2)
    return clock


@pytest.fixture
async def secured(
    serving: Serving, sqlite_url: str, waiting_reads: WaitingReads, clock: FakeClock, session_clock: SessionClock
) -> AsyncIterator[SecuredService]:
    """A service whose reads all go to Redis, which has the record of alice."""
    options = {"cache_url": waiting_reads.cache_url, "cache_size": 0, "store_url": sqlite_url}
    async with serving(**options, access="keys", login_limit="", rate_limit=f"{LIMIT}/day") as client:
        secured = SecuredService(client, sqlite_url, clock)
        alice = await secured.key_client()
        assert (await alice.ask("PUT", PATH, json={"user": USER, "ttl": 3600})).status == 201

        async def read() -> None:
            reader = await secured.key_client()  # a new key: its limit is not used up, however long this takes
            await logged_in([reader])
            await reader.ask("GET", PATH)

        await waiting_reads.until_in_redis(read)
        yield secured


async def logged_in(callers: Iterable[KeyClient]) -> None:
    """Let the service know the callers: only a caller whose session is cached is answered without a task."""
    for caller in callers:
        assert (await caller.ask("GET", ABSENT)).status in {403, 404}


def remaining(reply: Reply) -> int:
    """Return the rest of the rate limit that a response states."""
    return int(reply.headers["RateLimit"].split(";")[1].removeprefix("r="))


async def test_record_of_another_owner_seems_absent(secured: SecuredService, waiting_reads: WaitingReads) -> None:
    bob, admin = await secured.key_client("bob"), await secured.key_client("root", "admin")
    await logged_in([bob, admin])
    with waiting_reads.holding():
        reads = [asyncio.create_task(caller.ask("GET", PATH)) for caller in (bob, admin)]
        await waiting_reads.until_begun(2)
    owned, by_admin = await asyncio.gather(*reads)
    absent = await bob.ask("GET", ABSENT)

    assert (owned.status, by_admin.status) == (404, 200)
    request_ids = [reply.json["request_id"] for reply in (owned, absent)]
    assert owned.body.decode() == absent.body.decode().replace("0" * 32, GUID).replace(*reversed(request_ids))
    assert dict(owned.headers.get_all()).keys() == dict(absent.headers.get_all()).keys()
    waiting_reads.assert_nothing_is_left()


async def test_key_without_the_scope_reads_nothing_from_redis(
    secured: SecuredService, waiting_reads: WaitingReads
) -> None:
    writer = await secured.key_client("alice", "write")
    await logged_in([writer])
    count = len(waiting_reads.reads)
    replies = [await writer.ask("GET", PATH) for _ in range(3)]

    assert [reply.status for reply in replies] == [403] * 3
    assert all('scope="read"' in reply.headers["WWW-Authenticate"] for reply in replies)
    assert len(waiting_reads.reads) == count


async def test_session_that_ends_during_the_wait_is_looked_up_again(
    secured: SecuredService, waiting_reads: WaitingReads, session_clock: SessionClock
) -> None:
    kept, revoked, narrowed = [await secured.key_client() for _ in range(3)]
    await logged_in([kept, revoked, narrowed])
    with waiting_reads.holding():
        reads = [asyncio.create_task(caller.ask("GET", PATH)) for caller in (kept, revoked, narrowed)]
        await waiting_reads.until_begun(3)
        await secured.update_key(revoked.credential, revoked=1)
        await secured.update_key(narrowed.credential, scopes="write")
        session_clock.offset += SESSION_SECONDS
    replies = await asyncio.gather(*reads)

    assert [reply.status for reply in replies] == [200, 401, 401]
    assert all('error="invalid_token"' in reply.headers["WWW-Authenticate"] for reply in replies[1:])
    assert [remaining(reply) for reply in replies] == [LIMIT - 2] * 3, "each read counts once"
    waiting_reads.assert_nothing_is_left()


async def test_revocation_that_is_noticed_during_the_wait_takes_effect(
    secured: SecuredService, waiting_reads: WaitingReads, session_clock: SessionClock
) -> None:
    alice = await secured.key_client()
    await logged_in([alice])
    with waiting_reads.holding():
        read = asyncio.create_task(alice.ask("GET", PATH))
        await waiting_reads.until_begun(1)
        await secured.update_key(alice.credential, revoked=1)
        session_clock.offset += SESSION_SECONDS / 2  # the next request lets the service look the key up again
        await alice.ask("GET", "/guid?limit=1")
        await waiting_reads.until_session_ended()
    assert (await read).status == 401
    waiting_reads.assert_nothing_is_left()


async def test_each_read_counts_once_until_the_limit(secured: SecuredService, waiting_reads: WaitingReads) -> None:
    """Whether Redis answers it or not; a read beyond the limit gets 429 with the time to wait."""
    alice, bob = await secured.key_client("alice"), await secured.key_client("bob")
    await logged_in([alice, bob])
    count = len(waiting_reads.reads)
    replies = {caller: [await caller.ask("GET", PATH) for _ in range(LIMIT)] for caller in (alice, bob)}

    for caller, status in ((alice, 200), (bob, 404)):
        assert [reply.status for reply in replies[caller]] == [status] * (LIMIT - 1) + [429]
        assert [remaining(reply) for reply in replies[caller]] == [*range(LIMIT - 2, -1, -1), 0]
        assert {reply.headers["RateLimit-Policy"] for reply in replies[caller]} == {f'"requests";q={LIMIT};w=86400'}
        last = replies[caller][-1]
        assert last.json["type"] == "/problems/rate-limited"
        assert last.headers["Retry-After"] == last.headers["RateLimit"].rpartition("t=")[2]
    assert len(waiting_reads.reads) > count + LIMIT, "most reads were begun in Redis"
    waiting_reads.assert_nothing_is_left()


async def test_reads_that_wait_have_spent_their_part_of_the_limit(
    secured: SecuredService, waiting_reads: WaitingReads
) -> None:
    alice = await secured.key_client()
    await logged_in([alice])
    with waiting_reads.holding():
        reads = [asyncio.create_task(alice.ask("GET", PATH)) for _ in range(3)]  # the login has reserved a few more
        await waiting_reads.until_begun(3)
    assert [(reply.status, remaining(reply)) for reply in await asyncio.gather(*reads)] == [(200, LIMIT - 4)] * 3
    assert remaining(await alice.ask("GET", PATH)) == LIMIT - 5
