"""The exit codes of commands that a service rejects, or does not answer."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from guidsvc.cli.remote import remote
from tests.support.backing_servers import ROOT, START_SECONDS, Service, pdapt
from tests.support.command_line import CommandLine
from tests.support.guarded_service import GuardedService
from tests.support.scripted_server import RESET, problem, response, scripted_server

GUID = "9094E4C980C74043A4B586B420E69DDF"
READ, WRITE = ["get", GUID], ["put", GUID, "--user", "a"]


async def run(folder: Path, answer: bytes | None, words: list[str]) -> Any:
    """Run a command against a server with one answer to all requests."""
    async with scripted_server(lambda _: answer) as server:
        return await asyncio.to_thread(CommandLine(folder, server.url), *words)


@pytest.mark.parametrize("words", [READ, WRITE], ids=["read", "change"])
@pytest.mark.parametrize(
    ("answer", "codes", "fault"),
    [
        (problem("not-found", 404), (3, 3), "not-found"),
        (problem("expired", 410), (3, 3), "expired"),
        (problem("life-limit", 409), (4, 4), "life-limit"),
        (problem("unauthorized", 401), (5, 5), "set GUIDSVC_KEY"),
        (problem("forbidden", 403), (5, 5), "`guidsvc whoami` shows"),
        (problem("unavailable", 503, Retry_After="0"), (6, 6), "unavailable"),
        (problem("rate-limited", 429, Retry_After="600"), (6, 6), "Try again in 600 s"),
        (problem("rate-limited", 429, Retry_After="9" * 5000), (6, 6), "Try again in 31622400 s"),
        (problem("outcome-unknown", 504), (7, 7), "outcome-unknown"),
        (problem("internal", 500), (1, 7), "internal"),
        (problem("precondition-required", 428), (1, 1), "Add --if-match"),
        (response(200, b"<html>", "text/html"), (1, 1), "is not one of guidsvc"),
        (response(502, b"<html>", "text/html"), (6, 7), "is not one of guidsvc"),
        (RESET, (6, 7), "the connection broke off"),
    ],
    ids=lambda value: value.split(b"\r\n")[0].decode() or "reset" if isinstance(value, bytes) else None,
)
async def test_error_has_its_code_and_a_remedy(
    tmp_path: Path, words: list[str], answer: bytes, codes: tuple[int, int], fault: str
) -> None:
    done = await run(tmp_path, answer, words)

    assert (done.code, done.out) == (codes[words is WRITE], "")
    assert fault in done.err


@pytest.mark.parametrize(("pages", "requests"), [("a", 2), ("ab", 3)])
@pytest.mark.parametrize("words", [["ls"], ["watch"], ["keys", "list"]], ids=" ".join)
async def test_list_that_would_never_end_is_a_failure(
    tmp_path: Path, words: list[str], pages: str, requests: int
) -> None:
    """Each page names the same next one, or two pages name each other."""
    following = cycle(pages)
    body = b'{"items":[],"next":"%c","more":true}'
    async with scripted_server(lambda _: response(200, body % ord(next(following)))) as server:
        url = ["--url", server.url] if words[0] == "keys" else []
        done = await asyncio.to_thread(CommandLine(tmp_path, server.url), *words, *url)

    assert (done.code, done.out) == (1, "")
    assert "would never end" in done.err
    assert len(server.requests) == requests


async def test_doubt_about_a_change_is_reported(tmp_path: Path) -> None:
    written, read = [await run(tmp_path, RESET, words) for words in (WRITE, READ)]

    assert "the change may have taken effect: read the record before you try again" in written.err
    assert read.err.endswith("; try again\n")


def test_missing_service_is_worth_another_try(tmp_path: Path) -> None:
    done = CommandLine(tmp_path, "http://127.0.0.1:1")(*WRITE)

    assert (done.code, done.out) == (6, "")
    assert done.err.splitlines()[-1].endswith("with --url or GUIDSVC_URL.")
    assert len(done.err.splitlines()) == 2, "one note says that it tries again"
    assert len(CommandLine(tmp_path, "http://127.0.0.1:1")(*WRITE, "--quiet").err.splitlines()) == 1


def test_write_without_the_scope_read_is_done(guarded: GuardedService, tmp_path: Path) -> None:
    admin = CommandLine(tmp_path, guarded.service.url, GUIDSVC_KEY=guarded.key)
    words = ["keys", "create", "--owner", "operations", "--scopes", "write"]
    writer = pdapt(guarded.service._folder, *words).stdout.strip()
    admin.ok("put", GUID, "--user", "a")
    done = admin.ok("put", GUID, "--user", "b", GUIDSVC_KEY=writer)

    assert done.out == ""
    assert "the write is done" in done.err
    assert admin("get", GUID, GUIDSVC_KEY=writer).code == 5


@pytest.mark.parametrize("part", ["head", "body"])
async def test_command_ends_though_each_byte_comes_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(remote, "TOTAL_SECONDS", 0.5)

    async def dripping() -> AsyncIterator[bytes]:
        yield b"HTTP/1.1 200 -\r\n" + (b"" if part == "head" else b"Content-Length: 1000000\r\n\r\n")
        while True:
            yield b"x: y\r\n" if part == "head" else b" "
            await asyncio.sleep(0.01)

    async with scripted_server(lambda _: dripping()) as server, asyncio.timeout(START_SECONDS):
        done = await asyncio.to_thread(CommandLine(tmp_path, server.url), *WRITE[:1], "--user", "a")
    assert done.code == 7
    assert "no response in time" in done.err


async def test_interrupted_command_has_the_code_130(tmp_path: Path) -> None:
    async with scripted_server(lambda _: None) as server:
        process, _, err = CommandLine(tmp_path, server.url).start(*READ)
        while not server.requests:
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(process.wait, START_SECONDS) == 130
    assert err.read_text() == "\n"


def test_usage_error_of_the_program_has_the_code_2(tmp_path: Path) -> None:
    done = pdapt(tmp_path, "ls", "--usr", "a")

    assert done.returncode == 2
    assert "did you mean --user?" in done.stderr
    assert pdapt(tmp_path, "ls", GUIDSVC_PROFILE="none", XDG_CONFIG_HOME=str(tmp_path)).returncode == 2
    assert (ROOT / "pdapt.py").exists()


def test_service_without_tls_is_named(cli: CommandLine, running: Service) -> None:
    done = cli("ls", "--url", running.url.replace("http:", "https:"))

    assert done.code == 6
    assert "speaks no TLS. Use http://127.0.0.1:" in done.err
    assert "WRONG_VERSION" not in done.err


def test_remedies_name_options_and_not_headers(cli: CommandLine) -> None:
    """The service words its problems for HTTP. If it words one anew, this fails."""
    guid = cli.ok("put", "--user", "a", "--expire", "1h").json["guid"]
    lost = cli.ok("put", "--user", "a", "--expire", "2020-01-01").json["guid"]
    absent = "0" * 32
    expected = {
        ("get", guid, "--valid-for", "2h"): f"renew {guid}`",
        ("put", guid, "--new", "--user", "b"): "leave --new out",
        ("put", guid, "--if-match", "12", "--user", "b"): "use --if-match 1",
        ("renew", guid, "--ttl", "1h", "--if-match", "99"): "renew it with --if-match 1",
        ("put", "--expire", "1h"): "add --user NAME",
        ("put", absent): "`user` is required to create a GUID; add --user NAME",
        ("get", absent): "put GUID --user NAME`",
        ("rm", absent): "It was deleted before, or purged, or another owner has it",
        ("renew", absent, "--ttl", "1h"): "To acquire it again, use `",
        ("get", lost): "patch GUID --expire WHEN` with a future time",
        ("renew", lost, "--ttl", "1h"): "renew it with --revive and --ttl",
    }
    for words, remedy in expected.items():
        done = cli(*words)
        assert remedy in done.err, words
        assert not re.search("If-Match|If-None-Match|PUT|POST|as in", done.err), done.err


def test_write_of_a_past_expiry_is_noted(cli: CommandLine) -> None:
    done = cli.ok("put", "--user", "a", "--expire", "2020-01-01")
    guid = done.json["guid"]
    note = f"guidsvc: {guid} is not valid: its expiry, 2020-01-01T00:00:00Z, has passed\n"

    assert done.err == note
    assert cli.ok("put", guid, "--expire", "1h").err == ""
    assert cli.ok("patch", guid, "--expire", "2020-01-01").err == note
