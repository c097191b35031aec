"""The checks of the service before it starts."""

import asyncio
import time
from pathlib import Path

import pytest

from guidsvc.bootstrap import preflight
from guidsvc.bootstrap.preflight import UNKNOWN, Preflight, inspect
from guidsvc.config import load
from guidsvc.errors import StartError
from guidsvc.runtime.clock import system_clock
from guidsvc.services.key_service import KeyService
from guidsvc.store import open_keys
from tests.support.backing_servers import Server, free_port


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def make_key(url: str) -> None:
    """Create a store with one key."""
    async with open_keys(url) as api_keys:
        await KeyService(api_keys, clock=system_clock).create("alice", frozenset({"read"}))


def test_defaults_need_no_look(folder: Path) -> None:
    assert inspect(load([])) == UNKNOWN
    assert list(folder.iterdir()) == []


def test_missing_store_has_no_keys_and_is_not_created(folder: Path) -> None:
    assert inspect(load(["--access", "keys"])) == Preflight(None, has_keys=False)
    assert list(folder.iterdir()) == []


def test_store_with_a_key_is_recognized() -> None:
    asyncio.run(make_key("sqlite:///guidsvc.db"))

    assert inspect(load(["--access", "keys"])) == Preflight(None, has_keys=True)


def test_damaged_store_is_left_to_the_start(folder: Path) -> None:
    (folder / "guidsvc.db").write_bytes(b"no database" * 1000)

    assert inspect(load(["--access", "keys"])) == UNKNOWN


def test_cache_answers_is_absent_or_refuses(own_redis: Server) -> None:
    assert inspect(load(["--cache-url", f"redis://127.0.0.1:{own_redis.port}/0"])).cache_answers is True
    assert inspect(load(["--cache-url", f"redis://127.0.0.1:{free_port()}/0"])).cache_answers is False
    with pytest.raises(StartError, match=r"^cache_url: Redis has no such database"):
        inspect(load(["--cache-url", f"redis://127.0.0.1:{own_redis.port}/99"]))


def test_host_of_redis_without_an_address_is_unknown() -> None:
    result = inspect(load(["--cache-url", "redis://nowhere.invalid:6379/0"]))

    assert result == Preflight(cache_answers=False, has_keys=None, unknown_host="nowhere.invalid")
    assert inspect(load(["--cache-url", f"redis://127.0.0.1:{free_port()}/0"])).unknown_host is None
    assert inspect(load(["--cache-url", "unix:///nowhere/redis.sock"])).unknown_host is None


def test_slow_look_at_the_cache_is_abandoned(monkeypatch: pytest.MonkeyPatch, own_redis: Server) -> None:
    monkeypatch.setattr(preflight, "CACHE_SECONDS", 0.1)
    own_redis.pause()
    try:
        began = time.monotonic()
        assert inspect(load(["--cache-url", f"redis://127.0.0.1:{own_redis.port}/0"])).cache_answers is False
        assert time.monotonic() - began < preflight.KEYS_SECONDS
    finally:
        own_redis.resume()
