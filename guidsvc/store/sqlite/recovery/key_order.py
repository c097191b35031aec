"""The order of the keys of a SQLite store: a damaged key misleads searches, so that rows that exist seem absent.

Neither SQLite nor `quick_check` notices it. So each process reads the keys of all tables in the order of their pages,
some time after its start and then once a day. It reads a few at a time, and pauses between, so that this costs a tenth
of a core at most. A long read keeps the write-ahead log from being reset, so the check ends at a time limit.
"""

import asyncio
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import structlog

from guidsvc.errors import GuidsvcError
from guidsvc.store.sqlite.files import StoreFiles, connect
from guidsvc.store.sqlite.writer import is_damage, is_invalid_text

KEYS = (("records", "guid"), ("receipts", "key"), ("keys", "id"), ("ledgers", "owner"))
"""The tables that are sorted by a text, and their keys."""
SLICE_KEYS, PAUSE_SECONDS = 1_000, 0.005
"""How many keys are compared at a time, which takes half a millisecond, and the pause after them."""

_log = structlog.get_logger(__name__)


class CheckTimes(NamedTuple):
    """When the keys are checked: at a random time after the start, so that workers take turns, and then regularly."""

    first_seconds: tuple[float, float] = (5.0, 15.0)
    pause_seconds: float = 24 * 3600.0
    limit_seconds: float = 60.0


_TIMES = CheckTimes()


class _CheckStopped(Exception):
    """The check was stopped before its end."""


def find_disorder(connection: sqlite3.Connection, pause: Callable[[], None] = lambda: None) -> str | None:
    """Return which keys are out of order, or None. Call `pause` after each slice of keys.

    SQLite scans a table in the order of its pages for this, and does not sort it.
    """
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    for table, key in KEYS:
        if table in tables:  # an older version has fewer
            rows = connection.execute(f"SELECT {key} FROM {table} ORDER BY {key}")  # noqa: S608  # nosec B608  # names of this file
            if not all(_are_in_order(one, other) for one, other in pairwise(_keys(rows, pause))):
                return f"the keys of {table} are out of order"
    return None


class KeyCheck:
    """The check of the keys of an open store. It calls `on_damage` with what is wrong, once."""

    def __init__(self, files: StoreFiles, on_damage: Callable[[str], None], times: CheckTimes = _TIMES) -> None:
        self._files = files
        self._on_damage = on_damage
        self._times = times
        self._is_over = False

    async def run(self) -> None:
        """Check regularly, until damage is found: it does not go away while the store is open."""
        await asyncio.sleep(random.uniform(*self._times.first_seconds))  # noqa: S311  # nosec B311  # no secret
        while True:
            damage = await self._check_in_thread()
            if damage is not None:
                break
            await asyncio.sleep(self._times.pause_seconds)
        _log.error("store damaged, GUIDs that exist may be absent", file=str(self._files.path), damage=damage)
        self._on_damage(damage)

    async def _check_in_thread(self) -> str | None:
        """Return what is wrong, or None if nothing was found. If this is cancelled, the thread ends soon."""
        self._is_over = False
        try:
            return await asyncio.to_thread(self._check)
        except _CheckStopped:
            seconds = self._times.limit_seconds
            _log.info("order of keys not checked to its end, run `guidsvc doctor --deep`", limit_seconds=seconds)
        except (GuidsvcError, sqlite3.Error) as error:
            _log.warning("order of keys not checked", file=str(self._files.path), error=str(error))
        finally:
            self._is_over = True
        return None

    def _check(self) -> str | None:
        self._files.check()
        with closing(connect(self._files.path, timeout_seconds=1.0)) as connection:
            try:
                return find_disorder(connection, partial(self._pause, time.monotonic() + self._times.limit_seconds))
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
                return "a key is not valid UTF-8" if is_invalid_text(error) else str(error)

    def _pause(self, deadline: float) -> None:
        """Let other threads work; raise _CheckStopped if the check must end."""
        time.sleep(PAUSE_SECONDS)
        if self._is_over or time.monotonic() > deadline:
            raise _CheckStopped


def _are_in_order(one: object, other: object) -> bool:
    """Return whether a key may come before another. One of another type is damaged."""
    return isinstance(one, str) and isinstance(other, str) and one < other


def _keys(rows: sqlite3.Cursor, pause: Callable[[], None]) -> Iterator[object]:
    """Yield the keys, slice by slice."""
    while some := rows.fetchmany(SLICE_KEYS):
        yield from (key for (key,) in some)
        pause()
