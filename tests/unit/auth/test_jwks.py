"""The key set: where it may be, when it is read again, and what becomes of it when it cannot be."""

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
from tests.support.jwt_issuer import AUDIENCE, ISSUER, Place, Signer, claims, jwk, key_set, private, serving_keys
from tests.support.timer import Timer

OLD, NEW = Signer("old"), Signer("new", number=1)
STAYS = "jwks refresh failed, keeping the current keys"
NEVER = RefreshPolicy(interval_seconds=3600.0)
OFTEN = RefreshPolicy(interval_seconds=0.01)


@pytest.fixture
def timer() -> Timer:
    return Timer(0.0)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with serving_keys(key_set(OLD.jwk())) as served:
        yield served


@asynccontextmanager
async def opened(where: str, clock: FakeClock, timer: Timer, pace: RefreshPolicy = NEVER) -> AsyncIterator[JwtVerifier]:
    """Judge tokens by the keys that are there."""
    async with open_jwt_verifier(
        where, JwtTrustPolicy(ISSUER, AUDIENCE), fetch=fetch, clock=clock, timer=timer, refresh_policy=pace
    ) as tokens:
        yield tokens


async def until(condition: Callable[[], bool]) -> None:
    """Return when it holds."""
    while not condition():
        await asyncio.sleep(0.001)


def is_good(tokens: JwtVerifier, token: str) -> bool:
    """Whether a token is, as far as can be told at once."""
    try:
        tokens.verify(token)
    except Unauthorized:
        return False
    return True


def test_removed_key_is_rejected_within_a_minute() -> None:
    """Two readings, the first begun just before it was taken out; and log-ins that are remembered."""
    assert RefreshPolicy().interval_seconds + 2 * SECONDS + GOOD_SECONDS <= 60


# Where it may be


async def nothing(url: str, most: int) -> bytes:
    """Fetch an empty set."""
    return key_set()


@pytest.mark.parametrize(
    "where",
    [
        "https://issuer.example/keys",
        "https://issuer.example:8443/keys",
        "http://127.0.0.1/keys",
        "http://127.8.9.10:8080/keys",
        "http://[::1]:8080/keys",
        "http://localhost/keys",
    ],
)
async def test_url_is_https_or_local(where: str, timer: Timer) -> None:
    with pytest.raises(StartError, match="jwt_jwks: contains no usable key: it is empty"):
        async with open_jwks(where, nothing, timer=timer, refresh_policy=NEVER):
            pass


@pytest.mark.parametrize(
    ("where", "why"),
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
async def test_other_url_stops_the_start(where: str, why: str, timer: Timer) -> None:
    with pytest.raises(StartError, match=f"^jwt_jwks: .*{why}") as caught:
        async with open_jwks(where, nothing, timer=timer, refresh_policy=NEVER):
            pass
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "EOF"),
        (b"{}", "not a JWKS"),
        (key_set(), "no usable key: it is empty"),
        (key_set(jwk(private("RS1024").public_key(), kid="a\nb")), "no usable key: .*1024 bits"),
        (b" " * (MAX_BYTES + 1), f"larger than {MAX_BYTES}"),
    ],
)
@pytest.mark.parametrize("kind", ["file", "url"])
async def test_set_without_usable_key_stops_the_start(
    text: bytes, why: str, kind: str, tmp_path: Path, place: Place
) -> None:
    place.body = text
    (tmp_path / "keys").write_bytes(text)
    where = place.url if kind == "url" else str(tmp_path / "keys")

    with pytest.raises(StartError, match=f"^jwt_jwks: .*({why})") as caught:
        async with open_jwks(where, fetch, timer=Timer(0.0), refresh_policy=NEVER):
            pass
    assert "\n" not in str(caught.value)


async def test_unreachable_url_is_named_with_the_remedy(timer: Timer) -> None:
    where = f"http://127.0.0.1:{free_port()}/keys"

    with pytest.raises(StartError) as caught:
        async with open_jwks(where, fetch, timer=timer, refresh_policy=NEVER):
            pass
    assert str(caught.value) == (
        f"jwt_jwks: cannot use {where}: connection refused: nothing listens there; make it reachable, or correct the "
        "URL"
    )


async def test_unusable_file_stops_the_start(tmp_path: Path, timer: Timer) -> None:
    for path, why in ((tmp_path / "none", "No such file"), (tmp_path, "directory")):
        with pytest.raises(StartError, match=f"^jwt_jwks: .*{why}"):
            async with open_jwks(str(path), fetch, timer=timer, refresh_policy=NEVER):
                pass


# What metrics tell of it


async def test_reads_and_failures_are_told_to_the_metrics(
    place: Place, clock: FakeClock, timer: Timer, expected_logs: ExpectedLogs
) -> None:
    """A set that has not changed was read, too; one that is malformed was not."""
    expected_logs.add("jwks refresh failed")
    meter, at = KeySetMetrics(), clock.now / 1000
    assert (meter.failures, meter.read_at) == (None, None)
    async with open_jwks(place.url, fetch, timer=timer, refresh_policy=NEVER, clock=clock, meter=meter) as keys:
        assert (meter.failures, meter.read_at) == (0, at)
        for body, failures, read_at in (
            (key_set(OLD.jwk()), 0, at + 1),
            (b"{}", 1, at + 1),
            (b"", 2, at + 1),
            (key_set(NEW.jwk()), 2, at + 4),
        ):
            place.body = body
            clock.advance(seconds=1)
            timer.now += 10
            await keys.refresh()
            assert (meter.failures, meter.read_at) == (failures, read_at)


# When it is read again


async def test_unknown_key_causes_a_refresh(place: Place, clock: FakeClock, timer: Timer) -> None:
    async with opened(place.url, clock, timer) as tokens:
        place.body = key_set(OLD.jwk(), NEW.jwk())
        token = NEW.token(claims(clock.seconds))
        with pytest.raises(UnknownKey):
            tokens.verify(token)
        assert place.asked == 1, "to verify is to wait for nothing"

        assert (await tokens.find(token)).caller == tokens.verify(token).caller
        assert is_good(tokens, OLD.token(claims(clock.seconds)))


async def test_known_key_causes_no_refresh(place: Place, clock: FakeClock, timer: Timer) -> None:
    async with opened(place.url, clock, timer) as tokens:
        await tokens.find(OLD.token(claims(clock.seconds)))
        with pytest.raises(Unauthorized, match="expired"):
            await tokens.find(OLD.token(claims(1)))
        assert place.asked == 1


async def test_concurrent_unknown_keys_share_one_refresh(place: Place, clock: FakeClock, timer: Timer) -> None:
    storm = [Signer(f"new-{number}").token(claims(clock.seconds)) for number in range(200)]
    async with opened(place.url, clock, timer) as tokens:
        place.open.clear()
        asking = [asyncio.create_task(tokens.find(token)) for token in [*storm, NEW.token(claims(clock.seconds))]]
        await until(lambda: place.asked == 2)
        place.body = key_set(NEW.jwk())
        place.open.set()
        answers = await asyncio.gather(*asking, return_exceptions=True)

        assert [type(answer) for answer in answers[:-1]] == [UnknownKey] * 200
        assert not isinstance(answers[-1], BaseException)
        assert place.asked == 2


async def test_refreshes_are_ten_seconds_apart(place: Place, clock: FakeClock, timer: Timer) -> None:
    token = NEW.token(claims(clock.seconds))
    async with opened(place.url, clock, timer) as tokens:
        for timer.now, asked in ((0.0, 2), (0.0, 2), (9.99, 2), (10.0, 3), (19.99, 3), (20.0, 4)):
            with pytest.raises(UnknownKey):
                await tokens.find(token)
            assert place.asked == asked


async def test_failed_refresh_counts_as_one(
    place: Place, clock: FakeClock, timer: Timer, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(STAYS)
    async with opened(place.url, clock, timer) as tokens:
        place.status = "500 Oops"
        for _ in range(3):
            with pytest.raises(UnknownKey):
                await tokens.find(NEW.token(claims(clock.seconds)))
        assert place.asked == 2


async def test_cancelled_caller_does_not_cancel_a_shared_refresh(place: Place, clock: FakeClock, timer: Timer) -> None:
    token = NEW.token(claims(clock.seconds))
    async with opened(place.url, clock, timer) as tokens:
        place.body = key_set(NEW.jwk())
        place.open.clear()
        first, second = (asyncio.create_task(tokens.find(token)) for _ in range(2))
        await until(lambda: place.asked == 2)
        first.cancel()
        await asyncio.wait([first])
        place.open.set()

        assert await second
        assert first.cancelled()


async def test_keys_are_refreshed_without_requests(place: Place, clock: FakeClock, timer: Timer) -> None:
    old, new = (signer.token(claims(clock.seconds)) for signer in (OLD, NEW))
    async with opened(place.url, clock, timer, OFTEN) as tokens:
        place.body = key_set(NEW.jwk())
        await until(lambda: is_good(tokens, new))

        with pytest.raises(UnknownKey):
            tokens.verify(old)


async def test_file_is_refreshed_too(tmp_path: Path, clock: FakeClock, timer: Timer) -> None:
    path = tmp_path / "keys"
    path.write_bytes(key_set(OLD.jwk()))
    async with opened(str(path), clock, timer, OFTEN) as tokens:
        (tmp_path / "next").write_bytes(key_set(NEW.jwk()))
        (tmp_path / "next").rename(path)
        await until(lambda: is_good(tokens, NEW.token(claims(clock.seconds))))

        assert not is_good(tokens, OLD.token(claims(clock.seconds)))


# When it cannot be


def spoil(**changes: object) -> Callable[[Place], None]:
    """Have the server answer so."""
    return lambda place: vars(place).update(changes)


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
    place: Place,
    clock: FakeClock,
    timer: Timer,
    spoil: Callable[[Place], None],
    expected_logs: ExpectedLogs,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected_logs.add(STAYS)
    token = OLD.token(claims(clock.seconds))
    async with opened(place.url, clock, timer, OFTEN) as tokens:
        good = place.body
        spoil(place)
        await until(lambda: place.asked >= 6)
        assert is_good(tokens, token)
        assert caplog.text.count(STAYS) == 1

        place.body, place.status = good, "200 OK"
        asked = place.asked
        await until(lambda: place.asked >= asked + 2)
        spoil(place)
        await until(lambda: caplog.text.count(STAYS) == 2)
        assert is_good(tokens, token)


async def test_set_emptied_by_its_issuer_is_empty(
    place: Place, clock: FakeClock, timer: Timer, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("jwks loaded")
    async with opened(place.url, clock, timer, OFTEN) as tokens:
        place.body = key_set()
        await until(lambda: not is_good(tokens, OLD.token(claims(clock.seconds))))


async def test_shutdown_does_not_wait_for_a_refresh(clock: FakeClock, timer: Timer) -> None:
    answers = [key_set(OLD.jwk())]

    async def once(url: str, most: int) -> bytes:
        if not answers:
            await asyncio.Event().wait()
        return answers.pop()

    async with open_jwks("https://issuer.example/keys", once, timer=timer, refresh_policy=NEVER) as keys:
        asking = asyncio.create_task(keys.refresh())
        await until(lambda: keys._refresh_task is not None)

    await asyncio.wait([asking])
    assert asking.cancelled()
