"""The types of the Python client, checked by pyright as in an editor."""

import json
import sys
from pathlib import Path

import pytest

from tests.support import node_packages
from tests.support.backing_servers import ROOT

pytestmark = pytest.mark.timeout(300)

USE = """
from datetime import timedelta
from typing import assert_type

from guidsvc_client import AsyncClient, Client, Event, FullRecord, Record, Renewal, Result


def use(guids: Client) -> None:
    assert_type(guids.get("0" * 32), Record)
    assert_type(guids.get("0" * 32, full=True), FullRecord)
    assert_type(guids.create(user="a", ttl=timedelta(days=7)), Record)
    assert_type(guids.renew("0" * 32, ttl=60), Renewal)
    assert_type([record for record in guids.list(state="all")], list[Record])
    assert_type([record for record in guids.stream(full=True)], list[FullRecord])
    assert_type(next(guids.put_many([{"user": "a"}])), Result)
    with guids.lease(ttl=15) as lease:
        assert_type(lease.token, int)
    for event in guids.events(follow=False):
        assert_type(event, Event)
    guids.create(user=7)  # pyright: ignore[reportArgumentType]
    guids.lease()  # pyright: ignore[reportCallIssue]


async def use_async(guids: AsyncClient) -> None:
    assert_type(await guids.get("0" * 32, full=True), FullRecord)
    assert_type([record async for record in guids.list(full=True)], list[FullRecord])
    assert_type([record async for record in guids.stream()], list[Record])
    async with guids.lease(ttl=15) as lease:
        assert_type(lease.token, int)
"""


def test_pyright_finds_no_fault_in_the_client(tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text(USE)
    (tmp_path / "guidsvc_client").symlink_to(ROOT / "guidsvc_client")
    environment = Path(sys.prefix)
    settings = {
        "include": ["use.py", "guidsvc_client"],
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "venvPath": str(environment.parent),
        "venv": environment.name,
        "reportUnnecessaryTypeIgnoreComment": True,
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))

    printed = node_packages.run(tmp_path, node_packages.package("pyright") / "index.js")
    assert "0 errors" in printed
