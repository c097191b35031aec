"""Backup, restore and salvage: the command, its documentation, and incomplete copies of a store."""

import asyncio
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from socket import AF_UNIX, socket
from unittest.mock import Mock

import pymongo
import pytest

from guidsvc.domain import api_key as keys
from guidsvc.errors import StartError
from guidsvc.store import open_store
from guidsvc.store.mongo.store import ARCHIVE, BOUNDS, COLLECTION, FENCE, IDENTITY, KEYS, LEASES, LEDGERS, LOG, RECEIPTS
from guidsvc.store.sqlite import backup as sqlite_backup
from guidsvc.store.sqlite import parts as sqlite_parts
from guidsvc.store.sqlite import schema as sqlite_schema
from guidsvc.store.sqlite.backup import back_up, salvage
from guidsvc.store.sqlite.schema import MIGRATIONS, open_writer
from guidsvc.store.sqlite.store import path_of_url
from guidsvc.store.sqlite.tables import KEYS as KEY_TABLE
from guidsvc.store.sqlite.tables import RECORDS
from tests.conftest import ExpectedLogs, FakeClock, Serving
from tests.support.backing_servers import ROOT, START_SECONDS, pdapt, service, wait_until
from tests.support.factories import GUID, record
from tests.support.http_client import Client
from tests.support.killed_program import run_until_killed
from tests.support.recipe_shell import prepare, run_block
from tests.support.stored_records import GUIDS, PAGE, damage, fill_store

NAME_IT = ": name the store of the service with --store-url"
BACKUP = (ROOT / "docs" / "backup.md").read_text()
FAULTS = (ROOT / "docs" / "failure-modes.md").read_text()
SQLITE_SHELL = """#!{python}
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as connection:
    print(*connection.execute(sys.argv[2]), sep="\\n")
"""
"""Stands in for the `sqlite3` shell where it is not installed."""


def section(page: str, title: str) -> str:
    """Return the section of a page up to the next heading of its level or above."""
    level = title.partition(" ")[0]
    return re.split(rf"^#{{1,{len(level)}}} ", page.partition(f"\n{title}\n")[2], flags=re.MULTILINE)[0]


def recipe(text: str) -> str:
    """Return the only shell block of a text."""
    (block,) = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return str(block)


def spoil_page(path: Path, number: int) -> set[str]:
    """Overwrite the page of the record with this number; return the GUIDs of all records on it."""
    mark, data = f"mark{number:04}".encode(), path.read_bytes()
    page = next(page for start in range(0, len(data), PAGE) if mark in (page := data[start : start + PAGE]))
    damage(path.parent, mark)
    return {GUIDS[int(number_text)] for number_text in re.findall(rb"mark(\d{4})", page)}


Shell = Callable[[str], str]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Return a function that runs a documented shell block in the folder of the service and returns its output."""
    programs = prepare(tmp_path)
    if shutil.which("sqlite3") is None:
        (programs / "sqlite3").write_text(SQLITE_SHELL.format(python=sys.executable))
        (programs / "sqlite3").chmod(0o755)
    return partial(run_block, folder=tmp_path)


# Documentation


class Writers:
    """Clients that create records, and the list of the acknowledged GUIDs."""

    def __init__(self, port: int) -> None:
        self.acknowledged: list[str] = []
        self._is_over = False
        self._client = Client(port)
        self._tasks = [asyncio.create_task(self._write(writer)) for writer in range(4)]

    async def _write(self, writer: int) -> None:
        number = 0
        while not self._is_over:
            number += 1
            guid = f"{writer:016X}{number:016X}"
            if (await self._client.put(f"/guid/{guid}", {"user": guid})).status == 201:
                self.acknowledged.append(guid)
            await asyncio.sleep(0.002)  # let other processes run

    async def until(self, count: int) -> None:
        """Let them write until this many records are acknowledged."""
        async with asyncio.timeout(START_SECONDS):
            while len(self.acknowledged) < count:
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Stop the writers."""
        self._is_over = True
        await asyncio.gather(*self._tasks)
        await self._client.aclose()


async def test_documented_backup_and_restore_keep_acknowledged_records(tmp_path: Path, shell: Shell) -> None:
    with service(tmp_path, "--no-access-log") as running:
        writers = Writers(running.port)
        await writers.until(200)
        acknowledged = list(writers.acknowledged)
        output = await asyncio.to_thread(shell, recipe(section(BACKUP, "### Make a backup")))
        await writers.until(len(writers.acknowledged) + 50)
        await writers.stop()
    match = re.fullmatch(rf"{re.escape(str(tmp_path))}/backup\.db: (\d+) records, (\d+) bytes\n", output)
    assert match, output
    assert int(match[1]) >= len(acknowledged)
    assert int(match[2]) == (tmp_path / "backup.db").stat().st_size

    shell(recipe(section(BACKUP, "### Restore a backup")))
    with service(tmp_path, "--no-access-log") as running:
        client = Client(running.port)
        assert (await client.get("/readyz")).json["status"] == "ready"
        restored = {
            line["guid"] for line in (await client.get("/guid", headers={"Accept": "application/x-ndjson"})).lines
        }
        assert len(restored) == int(match[1])
        assert restored >= set(acknowledged)
        assert (await client.put(f"/guid/{GUID}", {"user": "goes on"})).status == 201
        await client.aclose()


async def test_damaged_file_recipe_saves_all_but_the_damaged_page(
    tmp_path: Path, shell: Shell, serving: Serving
) -> None:
    async with serving() as client:
        await fill_store(client)
    damaged_guids = spoil_page(tmp_path / "guidsvc.db", 300)
    output = shell(recipe(section(FAULTS, "### What to do").partition("*A row or document is not a valid record.*")[0]))

    async with serving() as client:
        assert (await client.get("/readyz")).json["status"] == "ready"
        saved = {line["guid"] for line in (await client.get("/guid", headers={"Accept": "application/x-ndjson"})).lines}
        assert saved == set(GUIDS) - damaged_guids
        assert f": {len(saved)} records, " in output
        assert (await client.put(f"/guid/{GUIDS[300]}", {"user": "new"})).status == 201


async def test_corrupt_row_recipe_removes_the_row(tmp_path: Path, shell: Shell, serving: Serving) -> None:
    async with serving() as client:
        assert (await client.put(f"/guid/{GUID}", {"user": "a"})).status == 201
    shell(recipe(section(FAULTS, "### What to do").partition("*A row or document is not a valid record.*")[2]))
    async with serving() as client:
        assert (await client.get(f"/guid/{GUID}")).status == 404


def test_every_shell_block_of_the_docs_is_run_here() -> None:
    blocks = [re.findall(r"^```sh$", page, re.MULTILINE) for page in (BACKUP, FAULTS)]
    assert [len(found_blocks) for found_blocks in blocks] == [2, 2]
    for page in (BACKUP, FAULTS):
        assert not re.search(r"^ {4}(sqlite3|python|mv|rm|cp) ", page, re.MULTILINE), "no test runs this recipe"
        assert "user_version" not in page, "the next migration would make this version wrong"


async def test_docs_name_every_collection(mongo_url: str, clock: FakeClock) -> None:
    async with open_store(mongo_url, exclusive=False) as store:
        await store.records.swap(None, record(clock()))
        with pymongo.MongoClient[dict[str, object]](mongo_url) as client:
            existing = set(client.get_default_database().list_collection_names())
    documented = set(re.findall(r"`(\w+)`", section(BACKUP, "## MongoDB").partition("###")[0]))

    assert documented == {COLLECTION, RECEIPTS, IDENTITY, FENCE, KEYS, LEDGERS, LOG, BOUNDS, LEASES, ARCHIVE}
    assert documented >= existing


# Command


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with one record."""
    path = tmp_path / "guidsvc.db"
    with closing(open_writer(path)) as writer:
        columns = ", ".join(RECORDS.columns)
        writer.execute(f"INSERT INTO records ({columns}) VALUES (?, 'a', 1, NULL, '', 1, 1, 1, 2)", (GUID,))
    return path


def test_backup_is_one_file_readable_by_its_owner_only(tmp_path: Path, store: Path) -> None:
    backup = back_up(store, tmp_path / "backup.db", overwrite=False)

    assert backup.records == 1
    assert backup.path.stat().st_mode & 0o777 == 0o600
    assert sorted(each.name for each in tmp_path.iterdir()) == ["backup.db", "guidsvc.db"]


@pytest.mark.parametrize("copy", [back_up, salvage])
def test_existing_target_is_replaced_only_on_request(tmp_path: Path, store: Path, copy: Callable[..., object]) -> None:
    target = tmp_path / "backup.db"
    target.write_text("precious")
    with pytest.raises(StartError, match=r"exists; name another file, or add --overwrite"):
        copy(store, target, overwrite=False)
    assert target.read_text() == "precious"

    copy(store, target, overwrite=True)
    with closing(sqlite3.connect(target)) as connection:
        assert connection.execute("SELECT guid FROM records").fetchall() == [(GUID,)]


def test_store_is_never_the_target(store: Path) -> None:
    with pytest.raises(StartError, match="is the store itself"):
        back_up(store, store, overwrite=True)


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-lock", "-journal"])
def test_sqlite_side_files_of_the_store_are_never_the_target(store: Path, suffix: str) -> None:
    side_file = store.with_name(store.name + suffix)
    side_file.unlink(missing_ok=True)  # only a store that is being served has side files
    (store.parent / "alias").symlink_to(store.parent)
    for target in (side_file, store.parent / "alias" / side_file.name):
        with pytest.raises(StartError, match="is the store itself, or a file beside it"):
            back_up(store, target, overwrite=True)
    assert not side_file.exists()


def make_socket(path: Path) -> None:
    """Create a Unix socket that nobody listens on."""
    with socket(AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize("copy", [back_up, salvage])
@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        make_socket,
        lambda path: path.symlink_to("precious"),
        lambda path: path.symlink_to(path.name),
        lambda path: path.symlink_to("missing"),
        lambda path: path.mkdir(),
    ],
    ids=["pipe", "socket", "link", "loop", "link to nothing", "folder"],
)
def test_irregular_file_is_never_replaced(
    tmp_path: Path, store: Path, make: Callable[[Path], None], copy: Callable[..., object]
) -> None:
    (tmp_path / "precious").write_text("precious")
    target = tmp_path / "backup.db"
    make(target)
    status = target.lstat()
    for overwrite in (True, False):
        with pytest.raises(StartError, match=r"^backup: .* is (not a regular file|a symbolic link|a folder)[,;]"):
            copy(store, target, overwrite=overwrite)
    assert (target.lstat().st_mode, target.lstat().st_ino) == (status.st_mode, status.st_ino)
    assert (tmp_path / "precious").read_text() == "precious"


def test_target_is_checked_again_before_it_is_replaced(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, check = tmp_path / "backup.db", sqlite_backup._checked

    def checked(copy: Path) -> int:
        os.mkfifo(target)  # while the copy is made
        return check(copy)

    monkeypatch.setattr(sqlite_backup, "_checked", checked)
    with pytest.raises(StartError, match="is not a regular file"):
        back_up(store, target, overwrite=True)
    assert target.is_fifo()
    assert not list(tmp_path.glob(".*"))


def test_path_that_sqlite_cannot_name_is_reported(tmp_path: Path, store: Path) -> None:
    for copy in (back_up, salvage):
        with pytest.raises(StartError, match="the path of the copy must be UTF-8"):
            copy(store, tmp_path / "\udcff.db", overwrite=True)
    assert list(tmp_path.iterdir()) == [store]


def test_backup_in_a_removed_working_directory_is_reported(tmp_path: Path, store: Path) -> None:
    folder = tmp_path / "removed"
    folder.mkdir()
    command = [sys.executable, str(ROOT / "pdapt.py"), "backup", "copy.db", "--store-url", f"sqlite:///{store}"]
    shell = ["sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh"]
    done = subprocess.run([*shell, *command], cwd=folder, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr == "pdapt.py: backup: the working directory no longer exists; name an absolute path\n"


def test_link_to_itself_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(StartError, match="store_url: "):
        path_of_url(f"sqlite:///{tmp_path / 'loop'}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_backup_leaves_no_partial_copy(tmp_path: Path, store: Path, number: signal.Signals) -> None:
    columns = "guid, user, expire, metadata, owner, version, created, updated, purge_at"
    insert = f"INSERT INTO records ({columns}) VALUES (?, 'a', 9, ?, '', 1, 1, 1, 9)"
    with closing(sqlite3.connect(store)) as file, file:
        file.executemany(insert, ((f"{index:032X}", "x" * 15_000) for index in range(4000)))
    command = [sys.executable, str(ROOT / "pdapt.py"), "backup", "copy.db", "--store-url", f"sqlite:///{store}"]
    running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    wait_until(lambda: any(tmp_path.glob(".copy.db.*")) or running.poll() is not None, "a partial copy")
    running.send_signal(number)

    running.wait(START_SECONDS)
    assert not list(tmp_path.glob(".copy.db*"))


KILLED_BACKUP = """
import sys
from pathlib import Path
from guidsvc.store.sqlite import backup
backup._checked = kill
backup.back_up(Path(sys.argv[1]), Path(sys.argv[2]), overwrite=False)
"""


@pytest.mark.parametrize("has_success", [True, False])
def test_copy_of_a_killed_backup_is_removed_by_the_next(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, has_success: bool
) -> None:
    names = set(tmp_path.iterdir())
    for _ in range(2):
        run_until_killed(KILLED_BACKUP, str(store), str(tmp_path / "monday.db"))
    left = [each for each in tmp_path.glob(".monday.db.*") if each.stat().st_size]
    assert len(left) == 1, "the second one has removed that of the first"

    if has_success:
        back_up(store, tmp_path / "tuesday.db", overwrite=False)
        assert set(tmp_path.iterdir()) == {*names, tmp_path / "tuesday.db"}
        return
    monkeypatch.setattr(sqlite_backup, "_checked", Mock(side_effect=StartError("damaged")))
    with pytest.raises(StartError, match="damaged"):
        back_up(store, tmp_path / "tuesday.db", overwrite=False)
    assert set(tmp_path.iterdir()) == names


def test_backup_interrupted_as_its_file_appears_leaves_none(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file = os.open

    def interrupted(path: Path, flags: int, mode: int = 0o777) -> int:
        descriptor = open_file(path, flags, mode)
        if path.suffix == ".part":
            os.close(descriptor)
            raise KeyboardInterrupt
        return descriptor

    names = sorted(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", interrupted)
        with pytest.raises(KeyboardInterrupt):
            back_up(store, tmp_path / "backup.db", overwrite=False)

    assert sorted(tmp_path.iterdir()) == names


def test_damaged_store_is_reported_and_leaves_no_backup(tmp_path: Path, serving: Serving) -> None:
    async def fill() -> None:
        async with serving() as client:
            await fill_store(client)

    asyncio.run(fill())
    spoil_page(tmp_path / "guidsvc.db", 300)
    result = pdapt(tmp_path, "backup", "backup.db")

    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(
        r"pdapt.py: --store-url: .*guidsvc.db is damaged; see docs/failure-modes.md\n", result.stderr
    ), result.stderr
    assert not [each for each in tmp_path.iterdir() if "backup" in each.name]


def test_backup_creates_no_store(tmp_path: Path) -> None:
    result = pdapt(tmp_path, "backup", "backup.db")

    assert result.returncode == 1
    assert result.stderr == f"pdapt.py: --store-url: there is no store at {tmp_path / 'guidsvc.db'}{NAME_IT}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x" * 300], r"backup: .*/x{300} cannot be written: File name too long; name another file"),
        (
            ["missing/backup.db"],
            r"backup: .*/missing/backup.db cannot be written: No such file or directory; create its folder, .*",
        ),
    ],
)
def test_impossible_backup_is_rejected_in_one_line(
    tmp_path: Path, store: Path, arguments: list[str], message: str
) -> None:
    result = pdapt(tmp_path, "backup", *arguments)

    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(rf"pdapt.py: {message}\n", result.stderr), result.stderr


def test_unreadable_single_rows_are_rebuilt(tmp_path: Path, store: Path) -> None:
    with closing(sqlite3.connect(store)) as damaged:
        damaged.execute("DELETE FROM identity")
        damaged.execute("DELETE FROM fence")
        damaged.commit()
    salvage(store, tmp_path / "saved.db", overwrite=False)

    with closing(open_writer(tmp_path / "saved.db")) as saved:
        assert len(saved.execute("SELECT * FROM identity").fetchall()) == 1
        assert saved.execute("SELECT mode FROM fence").fetchall() == [("off",)]
        assert saved.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


@pytest.mark.parametrize("version", range(4, len(MIGRATIONS) + 1))
def test_store_of_an_older_version_is_salvaged(tmp_path: Path, version: int) -> None:
    """Its tables have fewer columns than the current schema."""
    old, saved = tmp_path / "old.db", tmp_path / "saved.db"
    key = keys.generate("alice", ["read"], 1)[0]
    values = key.model_dump(exclude={"note", "max_ttl", "max_life"})
    with closing(open_writer(old, MIGRATIONS[:version])) as writer:
        names = ", ".join(values)
        writer.execute(f"INSERT INTO keys ({names}) VALUES ({', '.join('?' * len(values))})", tuple(values.values()))
    salvage(old, saved, overwrite=False)

    with closing(open_writer(saved)) as reader:
        row = reader.execute(KEY_TABLE.select, (key.id,)).fetchone()
    assert KEY_TABLE.row(row) == key


# Partial stores


@pytest.fixture
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the wait for another process that may be creating the file."""
    monkeypatch.setattr(sqlite_parts, "WAIT_SECONDS", 0.1)


async def start(path: Path) -> None:
    """Open the store in a file, as the service does."""
    async with open_store(f"sqlite:///{path}", exclusive=True):
        pass


@pytest.mark.usefixtures("short_wait")
async def test_copy_without_wal_is_not_taken_for_a_new_store(tmp_path: Path, clock: FakeClock) -> None:
    copy = tmp_path / "copy.db"
    async with open_store(f"sqlite:///{tmp_path / 'guidsvc.db'}", exclusive=True) as store:
        await store.records.swap(None, record(clock()))
        shutil.copy(tmp_path / "guidsvc.db", copy)
    contents = copy.read_bytes()
    assert len(contents) == 4096

    for _ in range(2):
        with pytest.raises(StartError, match=r"copied without its log .*docs/backup.md"):
            await start(copy)
    assert copy.read_bytes() == contents
    assert sorted(each.name for each in tmp_path.glob("copy*")) == ["copy.db"]


@pytest.mark.usefixtures("short_wait")
async def test_truncated_copy_is_damaged_and_one_without_wal_is_older(tmp_path: Path, clock: FakeClock) -> None:
    """The documentation says that the second cannot be detected."""
    path = tmp_path / "guidsvc.db"
    for count in (1, 2):
        async with open_store(f"sqlite:///{path}", exclusive=True) as store:
            await store.records.swap(None, record(clock(), guid=f"{count:032X}"))
            shutil.copy(path, tmp_path / "older.db")
    (tmp_path / "short.db").write_bytes(path.read_bytes()[:-PAGE])

    with pytest.raises(StartError, match=r"short\.db is damaged"):
        await start(tmp_path / "short.db")
    async with open_store(f"sqlite:///{tmp_path / 'older.db'}", exclusive=True) as store:
        assert await store.records.get(f"{1:032X}") is not None
        assert await store.records.get(f"{2:032X}") is None
    assert "older" in section(BACKUP, "### Restore a backup").partition("**The service cannot see everything.**")[2]


def test_docs_quote_the_start_error_for_partial_stores() -> None:
    source = Path(sqlite_parts.__file__).read_text() + Path(sqlite_schema.__file__).read_text()
    quoted_errors = re.findall(r"^\| .+? \| `(.+?)` \|$", section(BACKUP, "### Restore a backup"), re.MULTILINE)

    assert len(quoted_errors) == 4
    assert all(f'"{line}"' in source for line in quoted_errors)


CUT_OFF = """
import os, sqlite3, sys
source, target = sqlite3.connect("guidsvc.db"), sqlite3.connect("copy.db")
def progress(status, remaining, total):
    if total - remaining >= int(sys.argv[1]):
        os._exit(9)
source.backup(target, pages=10, progress=progress)
"""


@pytest.mark.usefixtures("short_wait")
@pytest.mark.parametrize("pages", [10, 3000])
async def test_interrupted_backup_is_not_taken_for_a_new_store(tmp_path: Path, clock: FakeClock, pages: int) -> None:
    async with open_store(f"sqlite:///{tmp_path / 'guidsvc.db'}", exclusive=True) as store:
        metadata = f'{{"room": "{"x" * 15_000}"}}'
        records = [record(clock(), guid=f"{number:032X}", metadata=metadata) for number in range(1000)]
        await asyncio.gather(*(store.records.swap(None, new) for new in records))
        result = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", CUT_OFF, str(pages)], cwd=tmp_path, check=False
        )
        assert result.returncode == 9

    for _ in range(2):
        with pytest.raises(StartError, match=r"is an incomplete copy\. .*docs/backup.md"):
            await start(tmp_path / "copy.db")


@pytest.mark.usefixtures("short_wait")
async def test_wal_without_its_file_is_not_deleted(tmp_path: Path) -> None:
    path, log = tmp_path / "guidsvc.db", tmp_path / "guidsvc.db-wal"
    log.write_bytes(b"x" * 4096)

    with pytest.raises(StartError, match=r"there is a log .* beside it"):
        await start(path)
    assert log.read_bytes() == b"x" * 4096


@pytest.mark.parametrize("is_there", [False, True])
async def test_absent_or_empty_file_is_a_new_store(tmp_path: Path, is_there: bool) -> None:
    if is_there:
        (tmp_path / "guidsvc.db").touch()
    await start(tmp_path / "guidsvc.db")


async def test_service_reports_partial_store_in_one_line(tmp_path: Path, expected_logs: ExpectedLogs) -> None:
    async with open_store(f"sqlite:///{tmp_path / 'guidsvc.db'}", exclusive=True):
        shutil.copy(tmp_path / "guidsvc.db", tmp_path / "copy.db")
    result = await asyncio.to_thread(pdapt, tmp_path, "--store-url", "sqlite:///copy.db", "--port", "0")

    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"pdapt.py: --store-url: {tmp_path / 'copy.db'} contains no tables: it was copied ")
