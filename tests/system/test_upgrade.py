"""docs/upgrading.md: each command for SQLite is run, around an upgrade to a version with one more migration."""

import re
from pathlib import Path

import pytest

from guidsvc.store.sqlite.schema import MIGRATIONS, open_writer
from tests.support.backing_servers import ROOT, pdapt, service
from tests.support.http_client import Client
from tests.support.recipe_shell import prepare, run_block

PAGE = (ROOT / "docs" / "upgrading.md").read_text()
SQLITE = PAGE.partition("\n## SQLite\n")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
NEXT_VERSION = (*MIGRATIONS, "ALTER TABLE records ADD COLUMN colour TEXT")
BEFORE, AFTER = "A" * 32, "B" * 32


async def put(port: int, guid: str) -> None:
    """Create a record."""
    client = Client(port)
    assert (await client.put(f"/guid/{guid}", {"user": "alice"})).status == 201
    await client.aclose()


async def statuses(port: int) -> list[int]:
    """Return the statuses of reads of both records."""
    client = Client(port)
    read_statuses = [(await client.get(f"/guid/{guid}")).status for guid in (BEFORE, AFTER)]
    await client.aclose()
    return read_statuses


@pytest.mark.slow
async def test_documented_upgrade_and_roll_back_of_sqlite(tmp_path: Path) -> None:
    backup, check, restore = BLOCKS
    prepare(tmp_path)
    with service(tmp_path) as running:
        await put(running.port, BEFORE)
        assert "1 record, " in run_block(backup, tmp_path)
        assert run_block(check, tmp_path, {"GUIDSVC_PORT": str(running.port)}).startswith("ready: ")
        await put(running.port, AFTER)
    open_writer(tmp_path / "guidsvc.db", NEXT_VERSION).close()  # as the new version does at its first start

    result = pdapt(tmp_path, "--port", "0")
    assert (result.returncode, "was written by a newer guidsvc" in result.stderr) == (1, True)

    run_block(restore, tmp_path)
    with service(tmp_path) as running:
        assert await statuses(running.port) == [200, 404]


async def test_new_version_keeps_the_records_of_the_old_one(tmp_path: Path) -> None:
    open_writer(tmp_path / "guidsvc.db", MIGRATIONS[:-1]).close()
    with service(tmp_path) as running:
        await put(running.port, BEFORE)
        assert await statuses(running.port) == [200, 404]


def test_every_shell_block_of_the_page_is_run_here() -> None:
    assert len(BLOCKS) == PAGE.count("```sh\n") == SQLITE.count("```sh\n") == 3


def test_page_quotes_the_refusal_of_a_newer_file() -> None:
    source = (ROOT / "guidsvc" / "store" / "sqlite" / "schema.py").read_text()
    (quoted,) = re.findall(r"does not open the new file: `(.*?)`", PAGE)

    assert quoted in source
