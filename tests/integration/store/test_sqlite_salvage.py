"""The salvage of a SQLite file: what is saved of a damaged one, and how the rest is reported."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from guidsvc.store.contract import Swap
from guidsvc.store.sqlite.backup import back_up, salvage
from guidsvc.store.sqlite.store import open_sqlite
from tests.conftest import FakeClock
from tests.support.backing_servers import pdapt
from tests.support.factories import USER, record
from tests.support.sqlite_damage import alter, change_key_in_root, overwrite_page_with, overwrite_root

GUIDS = [f"{number:032X}" for number in range(400)]
METADATA = '{"room":"' + "x" * 500 + '"}'


@pytest.fixture
async def filled(path: Path, clock: FakeClock) -> Path:
    """A store with a record under each of GUIDS, which fill an inner page and many leaves."""
    async with open_sqlite(path, exclusive=True) as store:
        await store.records.swap_many([Swap(None, record(clock(), guid=guid, metadata=METADATA)) for guid in GUIDS])
    return path


def users(path: Path) -> dict[str, str]:
    """Return the users by GUID, as a search in page order finds them."""
    with closing(sqlite3.connect(path)) as file:
        return dict(file.execute("SELECT guid, user FROM records ORDER BY guid"))


def test_whole_store_is_salvaged_without_losses(filled: Path, tmp_path: Path) -> None:
    saved = salvage(filled, tmp_path / "saved.db", overwrite=False)

    assert (saved.records, saved.losses) == (400, ())
    assert users(saved.path) == users(filled)


def test_rows_behind_a_damaged_key_are_salvaged(filled: Path, tmp_path: Path) -> None:
    changed = change_key_in_root(filled, "records")
    saved = salvage(filled, tmp_path / "saved.db", overwrite=False)

    assert set(users(saved.path)) >= set(GUIDS) - {changed}
    assert saved.losses == (
        "records: 1 that are in an index could not be read",
        "records: keys are out of order (once), so single keys may be wrong",
    )


def test_newer_of_two_rows_of_a_guid_is_salvaged(filled: Path, tmp_path: Path) -> None:
    """A search that a damaged key leads astray lets a GUID be created again."""
    changed = change_key_in_root(filled, "records")
    with closing(sqlite3.connect(filled)) as file:
        found = {guid for guid in GUIDS if file.execute("SELECT 1 FROM records WHERE guid = ?", (guid,)).fetchone()}
    lost = min(set(GUIDS) - found - {changed})
    alter(
        filled,
        "INSERT INTO records (guid, user, updated, expire, owner, version, created, purge_at) "
        "SELECT ?, 'newer', updated + 1, expire, owner, version, created, purge_at FROM records LIMIT 1",
        lost,
    )
    saved = salvage(filled, tmp_path / "saved.db", overwrite=False)

    assert users(saved.path)[lost] == "newer"
    assert len(users(saved.path)) == 400


def test_rows_of_a_damaged_page_are_counted(filled: Path, tmp_path: Path) -> None:
    overwrite_page_with(filled, (GUIDS[200] + USER).encode())
    saved = salvage(filled, tmp_path / "saved.db", overwrite=False)

    lost = set(GUIDS) - set(users(saved.path))
    assert 0 < len(lost) < 20
    assert saved.losses == (f"records: {len(lost)} that are in an index could not be read",)


def test_damaged_table_without_an_index_is_reported(filled: Path, tmp_path: Path) -> None:
    overwrite_root(filled, "keys")
    ended = pdapt(tmp_path, "backup", "--salvage", "saved.db", "--store-url", f"sqlite:///{filled}")

    assert (ended.returncode, ended.stdout[-1:]) == (0, "\n")
    assert ended.stderr == (
        "pdapt.py backup: warning: API keys: a part could not be read, and no whole index says how many are lost\n"
    )


def test_rows_of_damaged_index_and_table_are_not_counted(filled: Path, tmp_path: Path) -> None:
    for index in ("records_user", "records_expire", "records_due"):
        overwrite_root(filled, index)
    overwrite_page_with(filled, (GUIDS[200] + USER).encode())
    saved = salvage(filled, tmp_path / "saved.db", overwrite=False)

    assert saved.records < 400
    assert saved.losses == ("records: a part could not be read, and no whole index says how many are lost",)


def test_backup_of_a_whole_store_has_no_losses(filled: Path, tmp_path: Path) -> None:
    assert back_up(filled, tmp_path / "copy.db", overwrite=False).losses == ()
