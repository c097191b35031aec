"""Fixtures for work that a busy machine delays, used by every test."""

import inspect
import threading
from collections.abc import Iterator

import pytest

from guidsvc.runtime import batching
from guidsvc.store.sqlite import schema
from guidsvc.store.sqlite.engine import WRITE_SECONDS, SqliteEngine

DISK_SECONDS, THREAD_SECONDS = 60.0, 60.0


@pytest.fixture(autouse=True)
def _patient_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let writes of SQLite wait for long: a busy machine delays them. Tests of their time limits set them."""
    monkeypatch.setitem(inspect.unwrap(SqliteEngine.__init__).__kwdefaults__, "write_seconds", DISK_SECONDS)
    monkeypatch.setattr(schema, "BUSY_SECONDS", DISK_SECONDS)
    scans_per_second = batching.SCANS / WRITE_SECONDS
    monkeypatch.setattr(batching, "SCANS", round(scans_per_second * DISK_SECONDS))


@pytest.fixture(autouse=True)
def _ended_leases(quiet: None) -> Iterator[None]:
    """Wait for the threads of the client's leases. They may outlast their blocks, and their lines fail a later test."""
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("lease "):
            thread.join(THREAD_SECONDS)
            assert not thread.is_alive(), f"the thread {thread.name} does not end"
