"""The overlay of a dry run: what it costs other requests."""

import pytest

from guidsvc.domain import record as record_module
from guidsvc.store import open_store
from guidsvc.store.overlay import open_overlay
from tests.conftest import FakeClock
from tests.support.factories import GUID, record


async def test_rehearsed_record_is_read_without_decoding_metadata(
    sqlite_url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The overlay has written it itself; decoding 16 KiB would stop the event loop for up to 0.5 ms."""
    rehearsed = record(clock(), metadata='{"a":[[],[]]}')
    async with open_store(sqlite_url, exclusive=True) as store:
        with open_overlay(store.records) as overlay:
            assert await overlay.swap(None, rehearsed)
            monkeypatch.setattr(record_module, "from_json", pytest.fail)
            assert await overlay.get(GUID) == rehearsed
