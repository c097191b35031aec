"""The JWKS: its permitted locations, its refreshes, and failures of a refresh."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from guidsvc.auth.session import GOOD_SECONDS
from guidsvc.auth.tokens.jwks import MAX_BYTES, RefreshPolicy, open_jwks
from guidsvc.auth.tokens.jwks_client import SECONDS, fetch
from guidsvc.auth.tokens.jwt_bearer import JwtTrustPolicy, JwtVerifier, UnknownKey, open_jwt_verifier
from guidsvc.errors import StartError, Unauthorized
from guidsvc.telemetry.state_metrics import KeySetMetrics
from tests.conftest import ExpectedLogs, FakeClock
from tests.support.backing_servers import free_port
from tests.support.jwt_issuer import (
    AUDIENCE,
    ISSUER,
    JwksServer,
    Signer,
    claims,
    jwk,
    jwks_server,
    key_set,
    private_key,
)
from tests.support.timer import Timer

OLD, NEW = Signer("old"), Signer("new", number=1)
KEPT_AFTER_FAILURE = "jwks refresh failed, keeping the current keys"
NEVER = RefreshPolicy(interval_seconds=3600.0)
OFTEN = RefreshPolicy(interval_seconds=0.01)


@pytest.fixture
def timer() -> Timer:
    return Timer(0.0)


@pytest.fixture
async def key_server() -> AsyncIterator[JwksServer]:
    async with jwks_server(key_set(OLD.jwk())) as opened:
        yield opened


@asynccontextmanager
async def open_verifier(
    location: str, clock: FakeClock, timer: Timer, refresh_policy: RefreshPolicy = NEVER
) -> AsyncIterator[JwtVerifier]:
    """Open a verifier with the keys at this location."""
    async with open_jwt_verifier(
        location, JwtTrustPolicy(ISSUER, AUDIENCE), fetch=fetch, clock=clock, timer=timer, refresh_policy=refresh_policy
    ) as tokens:
        yield tokens


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    while not condition():
        await asyncio.sleep(0.001)


def is_valid(tokens: JwtVerifier, token: str) -> bool:
    """Return whether the token is valid by the keys loaded so far."""
    try:
        tokens.verify(token)
    except Unauthorized:
        return False
    return True


def test_removed_key_is_rejected_within_a_minute() -> None:
    """Two refreshes, the first begun just before the key was removed, and the lifetime of cached sessions."""
    assert RefreshPolicy().interval_seconds + 2 * SECONDS + GOOD_SECONDS <= 60


# Locations


async def fetch_empty_set(url: str, most: int) -> bytes:
    """Fetch an empty set."""
    return key_set()


@pytest.mark.parametrize(
    "location",
    [
        "https://issuer.example/keys",
        "https://issuer.example:8443/keys",
        "http://127.0.0.1/keys",
        "http://127.8.9.10:8080/keys",
        "http://[::1]:8080/keys",
        "http://localhost/keys",
    ],
)
async def test_url_is_https_or_local(location: str, timer: Timer) -> None:
    with pytest.raises(StartError, match="jwt_jwks: contains no usable key: it is empty"):
        async with open_jwks(location, fetch_empty_set, timer=timer, refresh_policy=NEVER):
            pass


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://issuer.example/keys", "on this host only"),
        ("http://127.0.0.1.example/keys", "on this host only"),
        ("http://localhost.example/keys", "on this host only"),
        ("http://0.0.0.0/keys", "on this host only"),
        ("http://169.254.169.254/keys", "on this host only"),
        ("http://localhost@issuer.example/keys", "on this host only"),
        ("ftp://127.0.0.1/keys", "on this host only"),
        ("file:///etc/passwd", "on this host only"),
        ("https:///keys", "on this host only"),
        ("https://me:secret@issuer.example/keys", "must not contain a user or a password"),
        ("https://issuer.example:x/keys", "[Pp]ort"),
        ("https://[::1/keys", "IPv6"),
    ],
)
async def test_other_url_stops_the_start(location: str, reason: str, timer: Timer) -> None:
    with pytest.raises(StartError, match=f"^jwt_jwks: .*{reason}") as error:
        async with open_jwks(location, fetch_empty_set, timer=timer, refresh_policy=NEVER):
            pass
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "EOF"),
        (b"{}", "not a JWKS"),
        (key_set(), "no usable key: it is empty"),
        (key_set(jwk(private_key("RS1024").public_key(), kid="a\nb")), "no usable key: .*1024 bits"),
        (b" " * (MAX_BYTES + 1), f"larger than {MAX_BYTES}"),
    ],
)
@pytest.mark.parametrize("kind", ["file", "url"])
async def test_set_without_usable_key_stops_the_start(
    text: bytes, reason: str, kind: str, tmp_path: Path, key_server: JwksServer
) -> None:
    key_server.body = text
    (tmp_path / "keys").write_bytes(text)
    location = key_server.url if kind == "url" else str(tmp_path / "keys")

    with pytest.raises(StartError, match=f"^jwt_jwks: .*({reason})") as error:
        async with open_jwks(location, fetch, timer=Timer(0.0), refresh_policy=NEVER):
            pass
    assert "\n" not in str(error.value)


async def test_unreachable_url_is_named_with_the_remedy(timer: Timer) -> None:
    url = f"http://127.0.0.1:{free_port()}/keys"

    with pytest.raises(StartError) as error:
        async with open_jwks(url, fetch, timer=timer, refresh_policy=NEVER):
            pass
    assert str(error.value) == (
        f"jwt_jwks: cannot use {url}: connection refused: nothing listens there; make it reachable, or correct the URL"
    )


async def test_unusable_file_stops_the_start(tmp_path: Path, timer: Timer) -> None:
    for path, reason in ((tmp_path / "none", "No such file"), (tmp_path, "directory")):
        with pytest.raises(StartError, match=f"^jwt_jwks: .*{reason}"):
            async with open_jwks(str(path), fetch, timer=timer, refresh_policy=NEVER):
                pass


# Metrics


async def test_reads_and_failures_are_counted_in_the_metrics(
    key_server: JwksServer, clock: FakeClock, timer: Timer, expected_logs: ExpectedLogs
) -> None:
    """An unchanged set counts as a successful read, a malformed one as a failure."""
    expected_logs.add("jwks refresh failed")
    meter, now = KeySetMetrics(), clock.now / 1000
    assert (meter.failures, meter.read_at) == (None, None)
    async with open_jwks(key_server.url, fetch, timer=timer, refresh_policy=NEVER, clock=clock, meter=meter) as keys:
        assert (meter.failures, meter.read_at) == (0, now)
        for body, failures, read_at in (
            (key_set(OLD.jwk()), 0, now + 1),
            (b"{}", 1, now + 1),
            (b"", 2, now + 1),
            (key_set(NEW.jwk()), 2, now + 4),
        ):
            key_server.body = body
            clock.advance(seconds=1)
            timer.now += 10
            await keys.refresh()
            assert (meter.failures, meter.read_at) == (failures, read_at)


# Refreshes


async def test_unknown_key_causes_a_refresh(key_server: JwksServer, clock: FakeClock, timer: Timer) -> None:
    async with open_verifier(key_server.url, clock, timer) as tokens:
        key_server.body = key_set(OLD.jwk(), NEW.jwk())
        token = NEW.token(claims(clock.seconds))
        with pytest.raises(UnknownKey):
            tokens.verify(token)
        assert key_server.request_count == 1, "verify must not fetch"

        assert (await tokens.find(token)).caller == tokens.verify(token).caller
        assert is_valid(tokens, OLD.token(claims(clock.seconds)))


async def test_known_key_causes_no_refresh(key_server: JwksServer, clock: FakeClock, timer: Timer) -> None:
    async with open_verifier(key_server.url, clock, timer) as tokens:
        await tokens.find(OLD.token(claims(clock.seconds)))
        with pytest.raises(Unauthorized, match="expired"):
            await tokens.find(OLD.token(claims(1)))
        assert key_server.request_count == 1


async def test_concurrent_unknown_keys_share_one_refresh(
    key_server: JwksServer, clock: FakeClock, timer: Timer
) -> None:
    unknown = [Signer(f"new-{number}").token(claims(clock.seconds)) for number in range(200)]
    async with open_verifier(key_server.url, clock, timer) as tokens:
        key_server.open.clear()
        searches = [asyncio.create_task(tokens.find(token)) for token in [*unknown, NEW.token(claims(clock.seconds))]]
        await until(lambda: key_server.request_count == 2)
        key_server.body = key_set(NEW.jwk())
        key_server.open.set()
        outcomes = await asyncio.gather(*searches, return_exceptions=True)

        assert [type(outcome) for outcome in outcomes[:-1]] == [UnknownKey] * 200
        assert not isinstance(outcomes[-1], BaseException)
        assert key_server.request_count == 2


async def test_refreshes_are_ten_seconds_apart(key_server: JwksServer, clock: FakeClock, timer: Timer) -> None:
    token = NEW.token(claims(clock.seconds))
    async with open_verifier(key_server.url, clock, timer) as tokens:
        for timer.now, fetches in ((0.0, 2), (0.0, 2), (9.99, 2), (10.0, 3), (19.99, 3), (20.0, 4)):
            with pytest.raises(UnknownKey):
                await tokens.find(token)
            assert key_server.request_count == fetches


async def test_failed_refresh_counts_as_one(
    key_server: JwksServer, clock: FakeClock, timer: Timer, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(KEPT_AFTER_FAILURE)
    async with open_verifier(key_server.url, clock, timer) as tokens:
        key_server.status = "500 Oops"
        for _ in range(3):
            with pytest.raises(UnknownKey):
                await tokens.find(NEW.token(claims(clock.seconds)))
        assert key_server.request_count == 2


async def test_cancelled_caller_does_not_cancel_a_shared_refresh(
    key_server: JwksServer, clock: FakeClock, timer: Timer
) -> None:
    token = NEW.token(claims(clock.seconds))
    async with open_verifier(key_server.url, clock, timer) as tokens:
        key_server.body = key_set(NEW.jwk())
        key_server.open.clear()
        first, second = (asyncio.create_task(tokens.find(token)) for _ in range(2))
        await until(lambda: key_server.request_count == 2)
        first.cancel()
        await asyncio.wait([first])
        key_server.open.set()

        assert await second
        assert first.cancelled()


async def test_keys_are_refreshed_without_requests(key_server: JwksServer, clock: FakeClock, timer: Timer) -> None:
    old, new = (signer.token(claims(clock.seconds)) for signer in (OLD, NEW))
    async with open_verifier(key_server.url, clock, timer, OFTEN) as tokens:
        key_server.body = key_set(NEW.jwk())
        await until(lambda: is_valid(tokens, new))

        with pytest.raises(UnknownKey):
            tokens.verify(old)


async def test_overdue_keys_are_read_before_a_login(key_server: JwksServer, clock: FakeClock, timer: Timer) -> None:
    """The timer of the periodic read stands still while the host is suspended."""
    old = OLD.token(claims(clock.seconds))
    async with open_verifier(key_server.url, clock, timer) as tokens:
        key_server.body = key_set(NEW.jwk())
        timer.now += NEVER.interval_seconds
        assert await tokens.find(old), "the periodic read may come yet"

        timer.now += NEVER.grace_seconds
        with pytest.raises(UnknownKey):
            await tokens.find(old)


async def test_overdue_keys_that_cannot_be_read_are_used(
    key_server: JwksServer, clock: FakeClock, timer: Timer, expected_logs: ExpectedLogs
) -> None:
    old = OLD.token(claims(clock.seconds))
    async with open_verifier(key_server.url, clock, timer) as tokens:
        key_server.status = "500 Oops"
        expected_logs.add("jwks refresh failed")
        timer.now += NEVER.interval_seconds + NEVER.grace_seconds
        for _ in range(2):
            assert await tokens.find(old)
        assert key_server.request_count == 2, "at the start, and once for both logins"


async def test_file_is_refreshed_too(tmp_path: Path, clock: FakeClock, timer: Timer) -> None:
    path = tmp_path / "keys"
    path.write_bytes(key_set(OLD.jwk()))
    async with open_verifier(str(path), clock, timer, OFTEN) as tokens:
        (tmp_path / "next").write_bytes(key_set(NEW.jwk()))
        (tmp_path / "next").rename(path)
        await until(lambda: is_valid(tokens, NEW.token(claims(clock.seconds))))

        assert not is_valid(tokens, OLD.token(claims(clock.seconds)))


# Failed refreshes


def spoil(**changes: object) -> Callable[[JwksServer], None]:
    """Return a function that makes the key server respond so."""
    return lambda key_server: vars(key_server).update(changes)


@pytest.mark.parametrize(
    "spoil",
    [
        spoil(status="500 Oops"),
        spoil(status="404 Not Found"),
        spoil(body=b"<html>"),
        spoil(body=b'{"error": "later"}'),
        spoil(body=b""),
        spoil(body=b" " * (MAX_BYTES + 1)),
    ],
    ids=["500", "404", "html", "no set", "empty", "large"],
)
async def test_last_valid_keys_stay_and_the_error_is_logged_once(  # fixtures
    key_server: JwksServer,
    clock: FakeClock,
    timer: Timer,
    spoil: Callable[[JwksServer], None],
    expected_logs: ExpectedLogs,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected_logs.add(KEPT_AFTER_FAILURE)
    token = OLD.token(claims(clock.seconds))
    async with open_verifier(key_server.url, clock, timer, OFTEN) as tokens:
        valid_set = key_server.body
        spoil(key_server)
        await until(lambda: key_server.request_count >= 6)
        assert is_valid(tokens, token)
        assert caplog.text.count(KEPT_AFTER_FAILURE) == 1

        key_server.body, key_server.status = valid_set, "200 OK"
        fetches = key_server.request_count
        await until(lambda: key_server.request_count >= fetches + 2)
        spoil(key_server)
        await until(lambda: caplog.text.count(KEPT_AFTER_FAILURE) == 2)
        assert is_valid(tokens, token)


async def test_set_emptied_by_its_issuer_is_empty(
    key_server: JwksServer, clock: FakeClock, timer: Timer, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("jwks loaded")
    async with open_verifier(key_server.url, clock, timer, OFTEN) as tokens:
        key_server.body = key_set()
        await until(lambda: not is_valid(tokens, OLD.token(claims(clock.seconds))))


async def test_shutdown_does_not_wait_for_a_refresh(clock: FakeClock, timer: Timer) -> None:
    bodies = [key_set(OLD.jwk())]

    async def fetch_once(url: str, most: int) -> bytes:
        if not bodies:
            await asyncio.Event().wait()
        return bodies.pop()

    async with open_jwks("https://issuer.example/keys", fetch_once, timer=timer, refresh_policy=NEVER) as keys:
        refresh = asyncio.create_task(keys.refresh())
        await until(lambda: keys._refresh_task is not None)

    await asyncio.wait([refresh])
    assert refresh.cancelled()
