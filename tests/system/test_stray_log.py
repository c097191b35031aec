"""A database and its write-ahead log that are separated under a running service, which is then killed."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.support.backing_servers import pdapt, service, wait_until
from tests.support.http_client import Client

COUNT = 40


async def fill(port: int, start: int) -> None:
    """Create records; each is acknowledged."""
    client = Client(port)
    replies = [await client.put(path(number), {"user": "a"}) for number in range(start, start + COUNT)]
    assert {reply.status for reply in replies} == {201}
    await client.aclose()


async def records_after_restart(folder: Path) -> list[int]:
    """Restart the service; return the numbers of the stored records. The file must be intact."""
    with service(folder) as running:
        client = Client(running.port)
        stored = [number for number in range(2 * COUNT) if (await client.get(path(number))).status == 200]
        await client.aclose()
    with closing(sqlite3.connect(folder / "guidsvc.db")) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    return stored


def path(number: int) -> str:
    return f"/guid/{number:032X}"


async def test_acknowledged_write_survives_removal_of_its_log(tmp_path: Path) -> None:
    database = tmp_path / "guidsvc.db"
    with service(tmp_path) as running:
        await fill(running.port, 0)
        size_before = database.stat().st_size
        (tmp_path / "guidsvc.db-wal").unlink()
        await asyncio.to_thread(
            wait_until, lambda: database.stat().st_size > size_before, "a larger database", running.log
        )
        running.kill()
    assert await records_after_restart(tmp_path) == list(range(COUNT))


async def test_stray_log_does_not_damage_a_replacement_database(tmp_path: Path) -> None:
    log = tmp_path / "guidsvc.db-wal"
    with service(tmp_path) as running:
        await fill(running.port, 0)
        assert pdapt(tmp_path, "backup", "backup.db").returncode == 0
        await fill(running.port, COUNT)
        (tmp_path / "backup.db").replace(tmp_path / "guidsvc.db")
        await asyncio.to_thread(wait_until, lambda: log.stat().st_size == 0, "an empty log", running.log)
        running.kill()
    assert await records_after_restart(tmp_path) == list(range(COUNT))
