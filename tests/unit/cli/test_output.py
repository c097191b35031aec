"""What the commands print, where it cannot be printed after all: after a key was changed."""

import asyncio
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from guidsvc.cli import output
from guidsvc.cli.parsing.program import run
from guidsvc.errors import StartError
from guidsvc.runtime.clock import system_clock
from guidsvc.services.key_service import KeyService
from guidsvc.store import open_keys

URL = "sqlite:///guidsvc.db"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to start in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def key_ids() -> list[str]:
    """Return the ids of all keys."""
    async with open_keys(URL) as api_keys:
        return [key.id for key in await api_keys.list("", 9)]


async def make_key() -> str:
    """Create a store with a key, and return its id."""
    async with open_keys(URL) as api_keys:
        return (await KeyService(api_keys, clock=system_clock).create("a", frozenset({"read"}))).key.id


def failure_of(monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """Return the error of a command whose output fills up after it was found to be writable."""
    monkeypatch.setattr(output, "require_writable", lambda: None)
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(StartError) as caught:
            run(["keys", *words])
    return str(caught.value)


def test_lost_key_is_named_with_the_command_that_revokes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told = failure_of(monkeypatch, "create", "--owner", "a", "--new-store")

    (made,) = asyncio.run(key_ids())
    assert told.startswith("standard output cannot be written: No space left on device; ")
    assert f"the key {made} was created, but is lost; revoke it with `guidsvc keys revoke {made}`" in told


def test_lost_secret_is_reported_with_the_command_to_rotate(monkeypatch: pytest.MonkeyPatch) -> None:
    made = asyncio.run(make_key())
    told = failure_of(monkeypatch, "rotate", made, "--overlap", "60")

    assert f"the key {made} was rotated, but its new secret is lost" in told
    assert "the old secret is valid for 60 more seconds" in told
    assert told.endswith(f"rotate it again with `guidsvc keys rotate {made}`")


@pytest.mark.parametrize(("free_blocks", "is_full"), [(0, True), (1, False)])
def test_full_disk_of_a_file_is_found_before_a_change(
    monkeypatch: pytest.MonkeyPatch, folder: Path, free_blocks: int, *, is_full: bool
) -> None:
    disk = SimpleNamespace(f_blocks=9, f_bavail=free_blocks, f_bfree=free_blocks)
    monkeypatch.setattr(os, "fstatvfs", lambda _: disk)
    with (folder / "out").open("w", encoding="utf-8") as out:
        monkeypatch.setattr(sys, "stdout", out)
        expected = pytest.raises(StartError, match="No space left on device; nothing was changed; ")
        with expected if is_full else nullcontext():
            output.require_writable()


def test_characters_that_a_terminal_hides_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    output.write("a\u202eb\x1b[31m\n\u00e9\n")
    output.tell("c\u2066d\x9b")

    assert capsys.readouterr() == ("a\\u202eb\\x1b[31m\n\u00e9\n", "c\\u2066d\\x9b\n")


def test_character_that_the_encoding_lacks_is_escaped(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    with (folder / "out").open("w", encoding="ascii") as out:
        monkeypatch.setattr(sys, "stdout", out)
        output.write("\u00e9\n")

    assert (folder / "out").read_text() == "\\xe9\n"
