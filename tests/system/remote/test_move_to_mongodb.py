"""docs/operations.md: each command that moves records from SQLite to MongoDB is run, between two services."""

import re
from pathlib import Path

import pytest

from guidsvc_client import Client
from tests.support.backing_servers import ROOT, service
from tests.support.guarded_service import GuardedService
from tests.support.recipe_shell import prepare, run_block

PAGE = (ROOT / "docs" / "operations.md").read_text()
SECTION = PAGE.partition("\n### From SQLite to MongoDB\n")[2].partition("\n## ")[0]
BLOCKS = re.findall(r" *```sh\n(.*?)```", SECTION, re.DOTALL)
MOVED, EXPIRED, OF_ANOTHER = "A" * 32, "B" * 32, "C" * 32


def fill(url: str, admin_key: str) -> None:
    """Create two records of alice, one of them expired, and one of bob."""
    with Client(url, key=admin_key) as admin:
        alice, bob = (admin.keys.create(owner, ["read", "write"]).key for owner in ("alice", "bob"))
    with Client(url, key=alice) as client:
        client.put(MOVED, user="a", metadata={"n": 1})
        client.put(EXPIRED, user="a", expire=1)
    with Client(url, key=bob) as client:
        client.put(OF_ANOTHER, user="b")


def write(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    path.touch(mode=0o600)
    path.write_text(text)


@pytest.mark.slow
def test_documented_move_keeps_the_records_of_an_owner(guarded: GuardedService, mongo_url: str, tmp_path: Path) -> None:
    fill(guarded.service.url, guarded.key)
    prepare(tmp_path)
    write(tmp_path / "admin.key", guarded.key)
    write(tmp_path / "store-url", mongo_url)
    create_key, copy, compare = BLOCKS

    run_block(create_key, tmp_path)
    with service(tmp_path, "--access", "keys", environment={"GUIDSVC_STORE_URL_FILE": "store-url"}) as new:
        variables = {"OLD": guarded.service.url, "NEW": new.url, "HOME": str(tmp_path)}
        run_block(copy, tmp_path, variables)
        assert run_block(compare, tmp_path, variables).split() == ["2", "2"]
        with Client(new.url, key=(tmp_path / "alice.key").read_text().strip()) as client:
            assert client.whoami().owner == "alice"
            copied = {each.guid: (each.user, each.metadata) for each in client.stream(state="all")}
    assert copied == {MOVED: ("a", {"n": 1}), EXPIRED: ("a", {})}


def test_every_shell_block_of_the_section_is_run_here() -> None:
    assert len(BLOCKS) == PAGE.count("```sh\n") == 3
