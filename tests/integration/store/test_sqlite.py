"""The SQLite store beyond the store's contract: the file, its versions, the disk, and group commit."""

import asyncio
import itertools
import os
import re
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path

import pytest

from guidsvc.domain import api_key as keys
from guidsvc.domain import record as record_module
from guidsvc.domain.commands.list_parameters import Position
from guidsvc.domain.selection import Selection
from guidsvc.errors import CorruptRecord, OutcomeUnknown, StartError, StoreReadOnly, StoreUnavailable
from guidsvc.runtime.background import WorkerThreads
from guidsvc.store.cache_fence import Mode
from guidsvc.store.sqlite.engine import GROUP, SqliteEngine
from guidsvc.store.sqlite.files import StoreFiles
from guidsvc.store.sqlite.schema import APPLICATION_ID, MIGRATIONS, claim, open_reader, open_writer
from guidsvc.store.sqlite.search.finder import Finder
from guidsvc.store.sqlite.search.statements import (
    count_statement,
    end_statement,
    expire_end_statement,
    expire_statement,
    statement,
    top_statement,
    values_of,
)
from guidsvc.store.sqlite.store import SqliteStore, open_sqlite, path_of_url
from guidsvc.store.sqlite.tables import RECORDS, Change
from guidsvc.store.sqlite.writer import Writer, failure
from tests.conftest import FakeClock
from tests.support.backing_servers import pdapt
from tests.support.factories import GUID, record
from tests.support.ordinary_user import ordinary_user
from tests.support.turn_counter import no_turn


@pytest.fixture
def statements() -> list[str]:
    """The statements that the writer executed."""
    return []


@pytest.fixture
def writer(path: Path, statements: list[str]) -> Iterator[sqlite3.Connection]:
    with closing(open_writer(path)) as connection:
        connection.set_trace_callback(statements.append)
        yield connection


@pytest.fixture
def write_seconds() -> float:
    """The time limit of a write: longer than any write takes on a busy machine. Tests of the limit override it."""
    return 30.0


@pytest.fixture
async def store(writer: sqlite3.Connection, path: Path, write_seconds: float) -> AsyncIterator[SqliteStore]:
    with closing(open_reader(path)) as reader:
        store = SqliteStore(SqliteEngine(writer, reader, Finder(path), write_seconds=write_seconds))
        yield store
        await store.aclose()


async def test_url_names_relative_or_absolute_path() -> None:
    assert path_of_url("sqlite:///guidsvc.db") == Path.cwd() / "guidsvc.db"
    assert path_of_url("sqlite:////var/lib/a%20b.db") == Path("/var/lib/a b.db")


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://host/a.db", "sqlite:///a?b"]
)
async def test_url_without_file_is_rejected(url: str) -> None:
    with pytest.raises(StartError, match="sqlite:///relative/path"):
        path_of_url(url)


@pytest.mark.parametrize("arguments", [["keys", "list"], ["backup", "copy.db"], ["--port", "0"]])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("loop", r"loop: Too many levels of symbolic links; name a file"),
        ("loop/guidsvc.db", r"loop/guidsvc.db: Too many levels of symbolic links; name a file"),
        ("pipe", r".*/pipe is not a regular file; name another"),
        ("link", r".*/pipe is not a regular file; name another"),
        ("x" * 300, r"x{300}: File name too long; name another file"),
        ("x" * 250, r"x{250}: File name too long; name another file"),  # for those beside it
        ("\udcff.db", r"the path of a SQLite store must be UTF-8"),
        ("hard", r".*/hard has 2 names \(hard links\), .* or stop the service and name a copy"),
    ],
)
def test_unusable_path_is_rejected_in_one_line(tmp_path: Path, name: str, message: str, arguments: list[str]) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to("pipe")
    os.mkfifo(tmp_path / "pipe")
    open_writer(tmp_path / "guidsvc.db").close()
    (tmp_path / "hard").hardlink_to(tmp_path / "guidsvc.db")
    result = pdapt(tmp_path, *arguments, "--store-url", f"sqlite:///{name}")

    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(rf"pdapt.py: --store-url: {message}\n", result.stderr), result.stderr


@pytest.mark.parametrize("name", ["guidsvc.db", "guidsvc.db-wal", "link"])
def test_audit_log_is_never_written_into_a_store_file(tmp_path: Path, name: str) -> None:
    open_writer(tmp_path / "guidsvc.db").close()
    (tmp_path / "link").symlink_to("guidsvc.db")
    contents = (tmp_path / "guidsvc.db").read_bytes()
    result = pdapt(tmp_path, "--port", "0", "--audit-log", name)

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"pdapt.py: --audit-log: {name} is a file of the store; name another\n"
    assert (tmp_path / "guidsvc.db").read_bytes() == contents


async def test_file_uses_a_wal_synced_at_each_commit(writer: sqlite3.Connection) -> None:
    assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert writer.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"


async def test_waiting_writes_are_committed_together(
    store: SqliteStore, clock: FakeClock, statements: list[str]
) -> None:
    await asyncio.gather(*(store.records.swap(None, record(clock(), guid=f"{number:032X}")) for number in range(100)))

    assert statements.count("COMMIT") == 1


async def test_race_lost_in_a_group_is_reported_to_the_loser_only(store: SqliteStore, clock: FakeClock) -> None:
    other_guid = "0" * 32
    swaps = [record(clock()), record(clock(), user="late"), record(clock(), guid=other_guid)]

    assert await asyncio.gather(*(store.records.swap(None, new) for new in swaps)) == [True, False, True]


async def test_fault_in_a_group_rolls_it_back_and_spares_the_next(
    store: SqliteStore, writer: sqlite3.Connection, clock: FakeClock
) -> None:
    writer.execute(
        "CREATE TEMP TRIGGER fault BEFORE INSERT ON records WHEN NEW.user = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    group = [record(clock()), record(clock(), guid="0" * 32, user="bad"), record(clock(), guid="1" * 32)]
    outcomes = await asyncio.gather(*(store.records.swap(None, new) for new in group), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 3
    assert [await store.records.get(new.guid) for new in group] == [None] * 3
    assert await store.records.swap(None, group[0])


async def test_full_disk_rejects_the_write_and_loses_nothing(
    store: SqliteStore, writer: sqlite3.Connection, clock: FakeClock
) -> None:
    stored = record(clock())
    await store.records.swap(None, stored)
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count = {pages}")
    big = '{"a":"' + "x" * 16_000 + '"}'

    with pytest.raises(StoreUnavailable, match="full"):
        await store.records.swap(None, record(clock(), guid="0" * 32, metadata=big))
    assert await store.records.get("0" * 32) is None
    assert await store.records.get(GUID) == stored
    writer.execute(f"PRAGMA max_page_count = {pages + 100}")
    assert await store.records.swap(None, record(clock(), guid="0" * 32, metadata=big)), (
        "writes succeed again once there is space"
    )


@pytest.mark.parametrize("is_creation", [True, False])
async def test_write_delayed_past_its_deadline_is_not_executed(
    store: SqliteStore, path: Path, clock: FakeClock, is_creation: bool
) -> None:
    """The deadline is checked once the write lock is held, not when the write is sent."""
    old = record(clock(), expire=0)
    if not is_creation:
        await store.records.swap(None, old)
    with closing(sqlite3.connect(path, isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        not_after = (await store.fence.read()).now + 50
        new = record(clock(), version=clock() + 1)
        write = asyncio.create_task(store.records.swap(None if is_creation else old, new, not_after=not_after))
        while (await store.fence.read()).now <= not_after:
            await asyncio.sleep(0.01)
        lock.execute("ROLLBACK")
    assert not await write
    assert await store.records.get(GUID) == (None if is_creation else old)


async def test_tally_waits_for_the_unfinished_write_of_another_process(
    store: SqliteStore, path: Path, clock: FakeClock
) -> None:
    """That write was in time when its process stalled, and becomes visible only now."""
    await store.records.swap(None, record(clock(), guid="0" * 32))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(*RECORDS.change(None, record(clock()))[:2])
        tally = asyncio.create_task(store.records.count_linearizable(Selection(expire_from=1)))
        assert await store.records.count(Selection(expire_from=1)) == 1
        assert not tally.done()
        connection.execute("COMMIT")
    assert await tally == 2


@pytest.mark.parametrize("write_seconds", [0.2])
async def test_write_delayed_by_another_process_is_unknown(store: SqliteStore, path: Path, clock: FakeClock) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        with pytest.raises(OutcomeUnknown):
            await store.records.swap(None, record(clock()))
        lock.execute("ROLLBACK")
    while await store.records.get(GUID) is None:
        await asyncio.sleep(0)


@pytest.mark.parametrize("write_seconds", [0.2])
async def test_write_still_queued_at_its_time_limit_changes_nothing(
    store: SqliteStore, path: Path, clock: FakeClock
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        first = asyncio.create_task(store.records.swap(None, record(clock())))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable):
            await store.records.swap(None, record(clock(), guid="0" * 32))
        lock.execute("ROLLBACK")
    with pytest.raises(OutcomeUnknown):
        await first
    while await store.records.get(GUID) is None:
        await asyncio.sleep(0)
    assert await store.records.get("0" * 32) is None


def test_commit_without_sync_has_unknown_outcome() -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC

    assert isinstance(failure(error, "a.db", committing=True), OutcomeUnknown)
    assert isinstance(failure(error, "a.db"), StoreUnavailable)


async def test_reads_decode_no_large_metadata(
    store: SqliteStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although they validate it: decoding 16 KiB would stop the event loop for up to 0.5 ms."""
    stored = record(clock(), metadata=f'{{"a":[{",".join(["[[[[]]]]"] * 1700)}]}}')
    await store.records.swap(None, stored)
    monkeypatch.setattr(record_module, "from_json", pytest.fail)

    assert await store.records.get(GUID) == store.records.get_nowait(GUID) == stored
    assert await store.records.get_many_for_update([GUID], no_turn) == {GUID: stored}
    assert await store.records.get_linearizable(GUID) == stored
    assert await store.records.find(Selection(), "", 9) == [stored]
    assert await store.records.find_by_expire(Selection(expire_from=1), Position("", 0), 9) == [stored]


@pytest.mark.parametrize(
    "column",
    ["user = ''", "expire = 'soon'", "metadata = '{'", "metadata = printf('{\"a\":%01100d', 1)", "version = NULL"],
)
async def test_corrupt_row_is_reported_and_others_are_served(
    store: SqliteStore, writer: sqlite3.Connection, clock: FakeClock, column: str
) -> None:
    other = record(clock(), guid="0" * 32)
    await asyncio.gather(store.records.swap(None, record(clock())), store.records.swap(None, other))
    writer.execute("PRAGMA ignore_check_constraints = ON")
    name = column.partition(" ")[0]
    writer.executescript(
        f"CREATE TABLE loose AS SELECT * FROM records; UPDATE loose SET {column} WHERE guid = '{GUID}'"
    )
    if name == "version":
        writer.executescript("DROP TABLE records; ALTER TABLE loose RENAME TO records")
    else:
        writer.execute(f"UPDATE records SET {column} WHERE guid = ?", (GUID,))

    with pytest.raises(CorruptRecord):
        await store.records.get(GUID)
    assert await store.records.get(other.guid) == other


async def test_unreadable_row_is_reported_only_to_its_readers(
    store: SqliteStore, writer: sqlite3.Connection, clock: FakeClock
) -> None:
    other = record(clock(), guid="0" * 32)
    await asyncio.gather(store.records.swap(None, record(clock())), store.records.swap(None, other))
    writer.execute("UPDATE records SET user = CAST(x'ff41' AS TEXT) WHERE guid = ?", (GUID,))

    bad, good = await asyncio.gather(
        store.records.get_linearizable(GUID), store.records.get_linearizable(other.guid), return_exceptions=True
    )
    assert (type(bad), good) == (CorruptRecord, other)


@pytest.mark.parametrize("damage", ["DELETE FROM fence", "UPDATE fence SET mode = 'x'", "UPDATE fence SET gen = 'x'"])
async def test_damaged_fence_is_reported_and_rebuilt_at_the_start(path: Path, damage: str) -> None:
    async with open_sqlite(path, exclusive=False) as store:
        store._engine.writer.connection.execute(damage)
        with pytest.raises(CorruptRecord, match="restart"):
            await store.fence.read()
    async with open_sqlite(path, exclusive=False) as store:
        assert (await store.fence.read()).fence.mode is Mode.OFF


@pytest.mark.parametrize("exclusive", [True, False])
async def test_lost_identity_is_rebuilt_at_the_start(path: Path, exclusive: bool) -> None:
    async with open_sqlite(path, exclusive=exclusive) as store:
        store._engine.writer.connection.execute("DELETE FROM identity")
        with pytest.raises(CorruptRecord, match="restart"):
            await store.store_id()
    async with open_sqlite(path, exclusive=exclusive) as store:
        assert await store.store_id()


async def test_close_answers_waiting_requests(path: Path, clock: FakeClock) -> None:
    async with open_sqlite(path, exclusive=True) as store:
        swaps = [
            asyncio.create_task(store.records.swap(None, record(clock(), guid=f"{n:032X}"))) for n in range(2 * GROUP)
        ]
        await asyncio.sleep(0)
    assert await asyncio.gather(*swaps) == [True] * 2 * GROUP
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT count(*) FROM records").fetchone() == (2 * GROUP,)


async def test_new_file_opened_concurrently_is_created_once(path: Path) -> None:
    connections = await asyncio.gather(*(asyncio.to_thread(open_writer, path) for _ in range(8)))

    assert connections[0].execute("SELECT count(*) FROM records").fetchone() == (0,)
    for connection in connections:
        connection.close()


async def test_older_file_is_migrated_with_its_records(path: Path, clock: FakeClock) -> None:
    async with open_sqlite(path, exclusive=True) as store:
        await store.records.swap(None, record(clock()))
    newer = (*MIGRATIONS, "ALTER TABLE records ADD COLUMN colour TEXT; UPDATE records SET colour = 'red'")

    with closing(open_writer(path, newer)) as writer:
        assert writer.execute("SELECT guid, colour FROM records").fetchall() == [(GUID, "red")]
        assert writer.execute("PRAGMA user_version").fetchone() == (len(newer),)


async def test_failed_migration_leaves_the_file_unchanged(path: Path) -> None:
    open_writer(path).close()
    broken = (*MIGRATIONS, "ALTER TABLE records ADD COLUMN colour TEXT; no such statement")

    with pytest.raises(StartError):
        open_writer(path, broken)
    with closing(open_writer(path)) as writer:
        assert "colour" not in str(writer.execute("SELECT sql FROM sqlite_master").fetchall())


async def test_file_of_newer_version_is_rejected(path: Path) -> None:
    open_writer(path, (*MIGRATIONS, "SELECT 1")).close()

    with pytest.raises(StartError, match="newer guidsvc"):
        open_writer(path)


def _text(path: Path) -> None:
    path.write_text("This is no database, and it is long enough to be taken for one at first sight.\n" * 20)


def _table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE recipes (name TEXT)")


def _owned(path: Path) -> None:
    with closing(sqlite3.connect(path)) as file:
        file.execute(f"PRAGMA application_id = {APPLICATION_ID + 1}")


@pytest.mark.parametrize(
    ("make", "message"), [(_text, "not a SQLite file"), (_table, "another app"), (_owned, "another app")]
)
async def test_foreign_file_is_rejected_unchanged(path: Path, make: Callable[[Path], None], message: str) -> None:
    make(path)
    contents = path.read_bytes()

    with pytest.raises(StartError, match=message):
        open_writer(path)
    with pytest.raises(StartError, match=message):
        async with open_sqlite(path, exclusive=True):
            pass
    assert path.read_bytes() == contents
    assert [file.name for file in path.parent.iterdir()] == [path.name]


async def test_read_only_file_is_rejected(path: Path, tmp_path: Path) -> None:
    open_writer(path).close()
    path.chmod(0o444)

    with ordinary_user(tmp_path, *tmp_path.parents[:3]), pytest.raises(StartError, match="read-only"):
        open_writer(path)


async def test_read_only_folder_is_rejected(path: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)

    fault = f"^store_url: {path} cannot be opened: its folder {tmp_path} is not writable to this user; change its mode"
    with ordinary_user(tmp_path, *tmp_path.parents[:3]):
        with pytest.raises(StartError, match=fault):
            open_writer(path)
        with pytest.raises(StartError, match=fault):
            claim(path, exclusive=True)
    tmp_path.chmod(0o755)


async def test_lock_file_of_another_user_is_rejected(path: Path, tmp_path: Path) -> None:
    lock = path.with_name("guidsvc.db-lock")
    lock.touch(0o600)

    with ordinary_user(tmp_path, *tmp_path.parents[:3]), pytest.raises(StartError) as error:
        claim(path, exclusive=True)
    assert str(error.value) == (
        f"store_url: {path} cannot be opened: {lock} is not readable and writable to this user: "
        f"{lock.owner()} owns it, mode 0600; give it to the user of the service (chown), or change its mode (chmod)"
    )


@pytest.mark.parametrize("suffix", ["", "-wal"])
async def test_store_restored_as_another_user_is_rejected(path: Path, tmp_path: Path, suffix: str) -> None:
    """To name another file would start with an empty store."""
    with closing(open_writer(path)):
        denied = path.with_name(f"{path.name}{suffix}")
        tmp_path.chmod(0o777)
        for each in tmp_path.iterdir():
            each.chmod(0o000 if each == denied else 0o666)

        with ordinary_user(tmp_path, *tmp_path.parents[:3]), pytest.raises(StartError) as error:
            async with open_sqlite(path, exclusive=True):
                pass
    assert str(error.value) == (
        f"store_url: {path} cannot be opened: {denied} is not readable and writable to this user: "
        f"{path.owner()} owns it, mode 0000; give it to the user of the service (chown), or change its mode (chmod)"
    )


@pytest.mark.parametrize("open_file", [open_writer, partial(claim, exclusive=True)])
async def test_missing_folder_is_rejected(tmp_path: Path, open_file: Callable[[Path], object]) -> None:
    folder = tmp_path / "none"

    with pytest.raises(StartError) as error:
        open_file(folder / "guidsvc.db")
    assert str(error.value) == (
        f"store_url: {folder}/guidsvc.db cannot be opened: its folder is missing; create {folder}, or name another file"
    )


async def test_full_disk_at_the_start_is_reported_in_one_line(path: Path) -> None:
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA page_size = 512")
    huge = (*MIGRATIONS, "PRAGMA max_page_count = 1; CREATE TABLE more (a)")

    with pytest.raises(StartError, match="disk is full"):
        open_writer(path, huge)


@pytest.mark.parametrize("exclusive", [True, False])
async def test_damaged_file_at_the_start_is_reported_in_one_line(path: Path, exclusive: bool) -> None:
    with closing(open_writer(path)) as file:
        (root,) = file.execute("SELECT rootpage FROM sqlite_master WHERE name = 'fence'").fetchone()
        (size,) = file.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as damaged:
        damaged.seek((root - 1) * size)
        damaged.write(b"\xff" * size)

    with pytest.raises(StartError, match="is damaged"):
        async with open_sqlite(path, exclusive=exclusive):
            pass


async def test_store_with_a_damaged_index_is_up(path: Path, clock: FakeClock) -> None:
    """Only requests that need the damaged page fail."""
    async with open_sqlite(path, exclusive=True) as store:
        await store.records.swap(None, record(clock()))
    with closing(open_writer(path)) as file:
        (root,) = file.execute("SELECT rootpage FROM sqlite_master WHERE name = 'records_expire'").fetchone()
        (size,) = file.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as damaged:
        damaged.seek((root - 1) * size)
        damaged.write(b"\xff" * size)

    async with open_sqlite(path, exclusive=True) as store:
        await store.ping()
        assert await store.records.get(GUID) == record(clock())


def test_error_outside_sqlite_leaves_no_open_transaction(writer: sqlite3.Connection, path: Path) -> None:
    file_writer = Writer(writer, StoreFiles(path, is_claimed=False))
    with pytest.raises(OverflowError):
        file_writer.swaps([Change("SELECT ?", (2**63,))])
    assert file_writer.transaction(lambda: "done") == "done"


@pytest.mark.parametrize("others_commit", [True, False])
def test_lock_that_others_pass_on_is_no_failure(writer: sqlite3.Connection, path: Path, *, others_commit: bool) -> None:
    """On a slow disk, workers may keep each other waiting. Nobody but a holder who does not end stops them."""
    writer.execute("PRAGMA busy_timeout = 0")
    file_writer = Writer(writer, StoreFiles(path, is_claimed=False))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("CREATE TABLE other_work (x)")
        with pytest.raises(StoreUnavailable, match="locked"):
            file_writer.transaction(lambda: None)
        if others_commit:
            other.execute("COMMIT")
            other.execute("BEGIN IMMEDIATE")
        with nullcontext() if others_commit else pytest.raises(StoreReadOnly):
            file_writer.check()

    assert file_writer.is_failing != others_commit
    assert file_writer.transaction(lambda: "done") == "done"


async def test_exclusive_claim_excludes_all_others(path: Path) -> None:
    async with open_sqlite(path, exclusive=True):
        for exclusive in (True, False):
            with pytest.raises(StartError, match="another guidsvc uses"):
                async with open_sqlite(path, exclusive=exclusive):
                    pass
    async with open_sqlite(path, exclusive=True) as store:
        assert await store.records.get(GUID) is None


async def test_file_is_claimed_under_any_of_its_names(path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    async with open_sqlite(path_of_url(f"sqlite:///{path}"), exclusive=True):
        with pytest.raises(StartError, match="another guidsvc uses"):
            async with open_sqlite(path_of_url(f"sqlite:///{link}"), exclusive=True):
                pass


async def test_each_first_process_changes_the_name_of_a_store(path: Path) -> None:
    names = []
    for exclusive in (False, False, True, False):
        async with open_sqlite(path, exclusive=exclusive) as store:
            names.append(await store.store_id())
            if not exclusive:
                async with open_sqlite(path, exclusive=False) as second:
                    assert await second.store_id() == names[-1]
    assert len({*names}) == len(names)


async def test_shared_claims_exclude_an_exclusive_one(path: Path, clock: FakeClock) -> None:
    async with open_sqlite(path, exclusive=False) as first:
        async with open_sqlite(path, exclusive=False) as second:
            assert await first.records.swap(None, new := record(clock()))
            assert await second.records.get(GUID) == new
        with pytest.raises(StartError, match="another guidsvc uses"):
            async with open_sqlite(path, exclusive=True):
                pass


# Searching


@pytest.mark.parametrize(
    ("selection", "few", "expected"),
    [
        (Selection(), False, "SEARCH records USING PRIMARY KEY (guid>?)"),
        (Selection(user="x"), False, "SEARCH records USING INDEX records_user (user=? AND guid>?)"),
        (Selection(expire_from=1), False, "SEARCH records USING PRIMARY KEY (guid>?)"),
        (Selection(expire_from=1), True, "SEARCH records USING COVERING INDEX records_expire (expire>? AND expire<?)"),
        (Selection(user="x", expire_from=1), True, "SEARCH records USING INDEX records_expire (expire>? AND expire<?)"),
        (Selection(owner="x"), False, "SEARCH records USING INDEX records_owner (owner=? AND guid>?)"),
        (
            Selection(owner="x", expire_from=1),
            True,
            "SEARCH records USING COVERING INDEX records_owner_expire (owner=? AND expire>? AND expire<?)",
        ),
        (
            Selection(owner="x", user="y", expire_from=1),
            True,
            "SEARCH records USING INDEX records_owner_expire (owner=? AND expire>? AND expire<?)",
        ),
        (
            Selection(owner="x", user="y"),
            False,
            "SEARCH records USING INDEX records_owner_user (owner=? AND user=? AND guid>?)",
        ),
    ],
)
def test_every_search_uses_an_index(writer: sqlite3.Connection, selection: Selection, few: bool, expected: str) -> None:
    values = values_of(selection, "") | {"limit": 1}
    plan = writer.execute(f"EXPLAIN QUERY PLAN {statement(selection, few=few)}", values).fetchall()

    # With few matches the keys are sorted, and only the rows of the page are read.
    plan_for_few = [
        "SEARCH records USING PRIMARY KEY (guid=?)",
        "LIST SUBQUERY 1",
        expected,
        "USE TEMP B-TREE FOR ORDER BY",
    ]
    assert [row[3] for row in plan] == (plan_for_few if few else [expected])


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(owner="x", expire_from=1), "records_owner (owner=? AND guid>?)"),
        (Selection(user="x", expire_from=1), "records_user (user=? AND guid>?)"),
    ],
)
def test_rows_of_other_expiries_are_not_read(writer: sqlite3.Connection, selection: Selection, expected: str) -> None:
    values = values_of(selection, "") | {"limit": 1}
    plan = writer.execute(f"EXPLAIN QUERY PLAN {statement(selection, few=False)}", values).fetchall()

    key_search = ["LIST SUBQUERY 1", f"SEARCH records USING COVERING INDEX {expected}"]
    assert [row[3] for row in plan] == ["SEARCH records USING PRIMARY KEY (guid=?)", *key_search]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(expire_from=1), ["PRIMARY KEY (guid>?)", "PRIMARY KEY (guid>? AND guid<?)"]),
        (
            Selection(user="x", expire_from=1),
            ["COVERING INDEX records_user (user=? AND guid>?)", "INDEX records_user (user=? AND guid>? AND guid<?)"],
        ),
        (
            Selection(owner="x", expire_from=1),
            [
                "COVERING INDEX records_owner (owner=? AND guid>?)",
                "INDEX records_owner (owner=? AND guid>? AND guid<?)",
            ],
        ),
    ],
)
def test_nearby_record_is_found_by_key(writer: sqlite3.Connection, selection: Selection, expected: list[str]) -> None:
    values = values_of(selection, "") | {"limit": 1, "near": 1, "end": "A"}
    plans = [
        writer.execute(f"EXPLAIN QUERY PLAN {each}", values).fetchall()
        for each in (end_statement(selection), statement(selection, few=False, end=True))
    ]

    assert [[row[3] for row in plan] for plan in plans] == [[f"SEARCH records USING {each}"] for each in expected]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), "USING COVERING INDEX records_expire (expire>? AND expire<?)"),
        (Selection(user="x", expire_from=1), "USING COVERING INDEX records_user (user=? AND guid>?)"),
        (Selection(owner="x", expire_from=1), "USING COVERING INDEX records_owner (owner=? AND guid>?)"),
        (
            Selection(owner="x", user="y"),
            "USING COVERING INDEX records_owner_user (owner=? AND user=? AND guid>?)",
        ),
        (
            Selection(owner="x", expire_from=1, excluding=frozenset({GUID})),
            "USING COVERING INDEX records_owner (owner=? AND guid>?)",
        ),
    ],
)
def test_every_count_uses_only_an_index(writer: sqlite3.Connection, selection: Selection, expected: str) -> None:
    plan = writer.execute(f"EXPLAIN QUERY PLAN {count_statement(selection)}", values_of(selection, "")).fetchall()

    assert [row[3] for row in plan if "records" in row[3]] == [f"SEARCH records {expected}"]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(owner=""), "USING PRIMARY KEY (guid>?)"),
        (Selection(owner="", user="x"), "USING INDEX records_user (user=? AND guid>?)"),
    ],
)
def test_records_without_owner_are_found_by_other_indexes(
    writer: sqlite3.Connection, selection: Selection, expected: str
) -> None:
    values = values_of(selection, "") | {"limit": 1}
    for each in (statement(selection, few=False), count_statement(selection)):
        plan = writer.execute(f"EXPLAIN QUERY PLAN {each}", values).fetchall()
        assert [row[3] for row in plan] == [f"SEARCH records {expected}"]


@pytest.mark.parametrize("near", [0, 5, 20, 1000])
@pytest.mark.parametrize("few", [True, False])
async def test_near_few_and_many_keys_return_the_same_records(
    writer: sqlite3.Connection, path: Path, clock: FakeClock, few: bool, near: int
) -> None:
    finder = Finder(path, few=1000 if few else 1, near=near)
    with closing(open_reader(path)) as reader:
        store = SqliteStore(SqliteEngine(writer, reader, finder))
        records = [
            record(clock(), guid=f"{each:032X}", expire=each % 7, user=f"{each % 3}", owner="a" * (each % 2))
            for each in range(50)
        ]
        await asyncio.gather(*(store.records.swap(None, each) for each in records))

        for selection in (
            Selection(expire_from=2, expire_before=5),
            Selection(user="1", expire_from=2, expire_before=5),
            Selection(owner="", expire_from=2, expire_before=5),
            Selection(owner="a", expire_from=2, expire_before=5),
            Selection(owner="a", user="1", expire_from=2, expire_before=5),
        ):
            for after, limit in ((20, 5), (20, 1), (45, 5), (49, 5)):
                expected = [each for each in records[after + 1 :] if selection.holds(each)]
                assert await store.records.find(selection, records[after].guid, limit) == expected[:limit]
        await store.aclose()


@pytest.mark.parametrize(
    ("selection", "in_order", "top"),
    [
        (Selection(), "records_expire (", None),
        (Selection(owner="x"), "records_owner_expire (owner=? AND ", None),
        (Selection(user="x", expire_from=1), "records_expire (", "records_user (user=?)"),
        (
            Selection(owner="x", user="y", kept_at=1),
            "records_owner_expire (owner=? AND ",
            "records_owner_user (owner=? AND user=?)",
        ),
    ],
)
def test_page_by_expiry_is_read_in_order_from_an_index(
    writer: sqlite3.Connection, selection: Selection, in_order: str, top: str | None
) -> None:
    """Nothing is sorted except the keys of a page that come from the index on a user."""
    values = values_of(selection, "") | {"after_expire": 0, "limit": 1, "end_expire": 1, "end": "A", "near": 1}
    for each, index, end in (
        (expire_statement(selection), "INDEX", "expire<?"),
        (expire_statement(selection, end=True), "INDEX", "(expire,guid)<(?,?)"),
        (expire_end_statement(selection), "COVERING INDEX", "expire<?"),
    ):
        scan = f"SEARCH records USING {index} {in_order}(expire,guid)>(?,?) AND {end})"
        assert [row[3] for row in writer.execute(f"EXPLAIN QUERY PLAN {each}", values)] == [scan]
    if top is None:
        return
    plan = [row[3] for row in writer.execute(f"EXPLAIN QUERY PLAN {top_statement(selection)}", values)]
    assert plan[:3] == [
        "SEARCH records USING PRIMARY KEY (guid=?)",
        "LIST SUBQUERY 1",
        f"SEARCH records USING COVERING INDEX {top}",
    ]


@pytest.mark.parametrize("near", [0, 5, 20, 1000])
async def test_near_and_selected_pages_by_expiry_are_the_same(
    writer: sqlite3.Connection, path: Path, clock: FakeClock, near: int
) -> None:
    finder = Finder(path, near=near)
    with closing(open_reader(path)) as reader:
        store = SqliteStore(SqliteEngine(writer, reader, finder))
        records = [
            record(clock(), guid=f"{each:032X}", expire=each % 7, user=f"{each % 3}", owner="a" * (each % 2))
            for each in range(50)
        ]
        await asyncio.gather(*(store.records.swap(None, each) for each in records))
        records.sort(key=lambda each: (each.expire, each.guid))

        for selection in (
            *(Selection(user="1"), Selection(user="1", expire_from=2, expire_before=5), Selection()),
            *(Selection(owner=""), Selection(owner="a"), Selection(owner="", user="1"), Selection(owner="a", user="1")),
        ):
            for index, limit in itertools.product((0, 20, 45, 49), (1, 5, 50)):
                after = Position(records[index].guid, records[index].expire)
                expected = [each for each in records[index + 1 :] if selection.holds(each)]
                assert await store.records.find_by_expire(selection, after, limit) == expected[:limit]
        await store.aclose()


async def test_search_over_its_time_limit_ends_and_frees_its_thread(path: Path) -> None:
    open_writer(path).close()
    finder = Finder(path, threads=1, seconds=1)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    try:
        with pytest.raises(StoreUnavailable, match="a search took longer"):
            await finder.run(lambda connection: connection.execute(endless).fetchone())
        assert await finder.count(Selection()) == 0
    finally:
        await finder.aclose()


async def test_search_of_departed_caller_is_stopped(path: Path) -> None:
    open_writer(path).close()
    finder = Finder(path, threads=1)
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def endless(connection: sqlite3.Connection) -> object:
        loop.call_soon_threadsafe(started.set)
        return connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
        ).fetchone()

    try:
        search = asyncio.create_task(finder.run(endless))
        await started.wait()
        search.cancel()
        with pytest.raises(asyncio.CancelledError):
            await search
        assert await finder.count(Selection()) == 0
    finally:
        await finder.aclose()


def test_file_of_first_schema_is_migrated_with_its_records(path: Path, clock: FakeClock) -> None:
    old = record(clock())
    with closing(open_writer(path, MIGRATIONS[:1])) as older:
        older.execute(*RECORDS.change(None, old)[:2])

    with closing(open_writer(path)) as writer:
        assert writer.execute("SELECT guid FROM records INDEXED BY records_user WHERE user = ?", (old.user,)).fetchone()


def test_indexes_of_older_file_leave_out_records_without_owner(path: Path, clock: FakeClock) -> None:
    with closing(open_writer(path, MIGRATIONS[:7])) as older:
        for number, owner in enumerate(("", "", "a")):
            older.execute(*RECORDS.change(None, record(clock(), guid=f"{number:032X}", owner=owner))[:2])

    with closing(open_writer(path)) as writer:
        for index in ("records_owner", "records_owner_user", "records_owner_expire"):
            count_owned = f"SELECT count(*) FROM records INDEXED BY {index} WHERE owner <> ''"
            assert writer.execute(count_owned).fetchone() == (1,)
            with pytest.raises(sqlite3.OperationalError, match="no query solution"):
                writer.execute(f"SELECT guid FROM records INDEXED BY {index}")
        assert writer.execute("SELECT count(*) FROM records").fetchone() == (3,)
        assert writer.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_update_sets_only_what_changes(store: SqliteStore, statements: list[str], clock: FakeClock) -> None:
    """Setting a column rewrites its indexes: most updates change neither the expiry nor the owner."""
    old = record(clock())
    new = old.model_copy(update={"user": "Another", "version": old.version + 1})
    assert await store.records.swap(None, old)
    assert await store.records.swap(old, new)
    assert await store.records.swap(new, new)  # nothing changes, if the stored record is this one
    assert not await store.records.swap(old, new)

    updates = [each.partition(" WHERE ")[0] for each in statements if each.startswith("UPDATE")]
    assert updates[0] == f"UPDATE records SET user = 'Another', version = {new.version}, last = 2"
    assert updates[1] == "UPDATE records SET guid = guid"
    assert await store.records.get(GUID) == new


async def test_keys_without_note_are_migrated(path: Path, clock: FakeClock) -> None:
    """A file without the column for notes is migrated, and an older process can still write to it."""
    old, _ = keys.generate("alice", ["read"], clock())
    values = old.model_dump(exclude={"note", "max_ttl", "max_life"})
    insert = f"INSERT INTO keys ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})"
    with closing(open_writer(path, MIGRATIONS[:5])) as writer:
        writer.execute(insert, tuple(values.values()))

    async with open_sqlite(path, exclusive=False) as store:
        assert await store.api_keys.get(old.id) == old
        noted = old.model_copy(update={"note": "n", "version": 2})
        assert await store.api_keys.swap(old, noted)
        with closing(sqlite3.connect(path)) as older:
            older.execute(insert, tuple((values | {"id": "0" * 12}).values()))
            older.commit()
        assert [key.note for key in await store.api_keys.list("", 5)] == [None, "n"]


@pytest.mark.parametrize("command", [["list"], ["show", "0" * 12], ["create", "--owner", "alice", "--new-store"]])
def test_commands_for_keys_leave_an_older_file_as_it_is(path: Path, command: list[str]) -> None:
    """A service of an older version may be using the file."""
    open_writer(path, MIGRATIONS[:9]).close()
    result = pdapt(path.parent, "keys", *command, "--store-url", f"sqlite:///{path}")

    assert (result.returncode, result.stdout) == (1, "")
    assert f"has schema 9, and this guidsvc uses {len(MIGRATIONS)}: start its service once" in result.stderr
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (9,)


def test_refused_start_leaves_an_older_file_as_it_is(path: Path) -> None:
    """The start looks for API keys before it claims the file."""
    open_writer(path, MIGRATIONS[:9]).close()
    with closing(claim(path, exclusive=True)[0]):
        result = pdapt(path.parent, "--port", "0", "--access", "keys", "--store-url", f"sqlite:///{path}")

    assert result.returncode == 1
    assert "start this one with --store-url" in result.stderr
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (9,)


async def test_writer_thread_does_its_work_in_order_until_its_end() -> None:
    thread, results = WorkerThreads(1, "test"), list[str]()
    gate = threading.Event()

    def fail() -> None:
        raise StoreUnavailable("it failed")

    running = thread.run(gate.wait)
    cancelled = thread.run(lambda: results.append("cancelled"))
    failed, final = thread.run(fail), thread.run(lambda: results.append("last"))
    cancelled.cancel()
    gate.set()
    await asyncio.to_thread(thread.shut_down)

    assert await running is True
    with pytest.raises(StoreUnavailable, match="it failed"):
        await failed
    await final
    assert results == ["last"], "work cancelled before its start is not executed"
    with pytest.raises(RuntimeError, match="have ended"):
        thread.run(gate.wait)


async def test_write_reported_as_failed_changed_nothing(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "guidsvc.db"
    with closing(open_writer(path)) as writer, closing(open_reader(path)) as reader:
        store = SqliteStore(SqliteEngine(writer, reader, Finder(path), write_seconds=0.1))
        swap = asyncio.create_task(store.records.swap(None, record(clock())))
        await asyncio.sleep(0)  # the write is queued, but not yet sent
        time.sleep(0.2)  # noqa: ASYNC251  # the process is paused; when it continues, everything due happens in one turn of the loop
        try:
            swapped = await swap
        except StoreUnavailable:
            swapped = False
        except OutcomeUnknown:
            swapped = None
        await store.aclose()
        assert swapped is None or swapped is (store.records.get_nowait(GUID) is not None)


@pytest.mark.parametrize("is_empty", [False, True])
async def test_store_that_was_in_use_is_not_created(tmp_path: Path, *, is_empty: bool) -> None:
    path = tmp_path / "guidsvc.db"
    if is_empty:
        path.touch()
    files = list(tmp_path.iterdir())
    with pytest.raises(StartError, match="is missing, but workers of this service have used it"):
        async with open_sqlite(path, exclusive=False, create=False):
            pass
    with pytest.raises(StartError, match="is missing"):
        open_writer(path, create=False)  # it was removed after the first check
    assert path.stat().st_size == 0
    path.unlink()
    assert list(tmp_path.iterdir()) == [each for each in files if each != path]
