"""The memory of cached records is bounded in bytes, for records of any content."""

import subprocess
import sys

import pytest
from cachebox import LRUCache

from guidsvc.auth.authenticator import SESSION_BYTES, SESSION_CACHE_BYTES, Authenticator
from guidsvc.cache.byte_lru import bounded, put
from guidsvc.domain.record import SMALL_BYTES
from tests.conftest import FakeClock
from tests.support.backing_servers import ROOT
from tests.support.cache_growth import METADATA, NOW, SIZE_BYTES, metadata
from tests.support.factories import record
from tests.support.gated_store import GatedStore

SLACK_BYTES = 12 * 2**20
"""Memory that the allocator retains and the interpreter takes."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", METADATA)
def test_full_cache_takes_no_more_than_its_size(kind: str) -> None:
    command = [sys.executable, "-m", "tests.support.cache_growth", kind]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr

    growth_bytes, entry_count = map(int, result.stdout.split())
    assert growth_bytes <= SIZE_BYTES + SLACK_BYTES, f"{growth_bytes / 2**20:.0f} MiB for {entry_count} records"
    assert growth_bytes >= SIZE_BYTES / 3, f"only {growth_bytes / 2**20:.0f} MiB are used, by {entry_count} records"


def test_rendered_large_record_is_not_cached() -> None:
    small, large = (record(NOW, metadata=metadata("x" * size)) for size in (100, SMALL_BYTES))
    for large_or_small in (small, large):
        large_or_small.render_cache["answer"] = large_or_small.json_body

    assert small.json_body is small.json_body
    assert small.render_cache == {"answer": small.json_body}
    assert "wire" not in large.__dict__
    assert large.render_cache == {}
    assert large.json_body == large.json_body
    assert large.json_body.endswith(b'"}}')


def weight(_key: str, value: int) -> int:
    return value


@pytest.fixture
def full() -> LRUCache[str, int]:
    cache = bounded(10, weight)
    put(cache, "a", 4)
    put(cache, "b", 6)
    return cache


def test_oversized_value_is_not_cached_and_drops_the_old_one(full: LRUCache[str, int]) -> None:
    put(full, "a", 11)

    assert dict(full.items()) == {"b": 6}


def test_least_recently_used_entries_make_room(full: LRUCache[str, int]) -> None:
    full.get("a")
    put(full, "c", 5)

    assert dict(full.items()) == {"a": 4, "c": 5}


def test_cache_without_size_is_unbounded() -> None:
    cache = bounded(0, weight)
    put(cache, "a", 2)

    assert dict(cache.items()) == {}


def test_cached_logins_are_bounded_in_bytes(clock: FakeClock) -> None:
    logins = Authenticator(GatedStore(), clock=clock)._sessions  # type: ignore[arg-type]  # it reads no key
    header = "Bearer " + "x" * 8_000

    for number in range(3_000):
        logins.insert(f"{header}{number}", None)  # type: ignore[arg-type]

    assert logins.current_size() <= SESSION_CACHE_BYTES
    assert 1_000 < len(logins) < SESSION_CACHE_BYTES / (SESSION_BYTES + len(header))
