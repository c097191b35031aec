"""Invalid settings of every command: exit code 2, and the sentences of `serve`."""

from pathlib import Path

import pytest

from guidsvc.cli.commands import COMMANDS
from tests.support.backing_servers import pdapt

BACKUP_ONLY_SQLITE = "backup copies only SQLite stores; for MongoDB use mongodump, see docs/backup.md"
STORE_COMMANDS = (
    ("keys", "create", "--new-store", "--owner", "a"),
    ("keys", "list"),
    ("keys", "note", "0" * 12),
    ("keys", "revoke", "0" * 12),
    ("keys", "rotate", "0" * 12),
    ("backup", "copy.db"),
    ("backup", "copy.db", "--salvage", "--overwrite"),
)
URLS = ("file:///x", "sqlite:", "sqlite:///", "sqlite:///x?y=1", "", "mongodb://h:99999/x", "mongodb://u:p@ss@h/x")


def refusal(folder: Path, *words: str, **environment: str) -> str:
    """Return the lines with which a command rejects its settings."""
    done = pdapt(folder, *words, **environment)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert list(folder.iterdir()) == []
    return done.stderr


@pytest.mark.parametrize("url", URLS)
def test_store_url_is_rejected_like_that_of_serve(tmp_path: Path, url: str) -> None:
    by_flag = refusal(tmp_path, "serve", "--store-url", url)
    assert by_flag.startswith("pdapt.py: --store-url: ")

    for words in STORE_COMMANDS:
        is_mongo_backup = words[0] == "backup" and url.startswith("mongodb:")
        expected = f"pdapt.py: --store-url: {BACKUP_ONLY_SQLITE}\n" if is_mongo_backup else by_flag
        assert refusal(tmp_path, *words, "--store-url", url) == expected, words


@pytest.mark.parametrize("words", [("serve",), *STORE_COMMANDS])
def test_all_faults_are_listed_by_their_source(tmp_path: Path, words: tuple[str, ...]) -> None:
    lines = refusal(tmp_path, *words, GUIDSVC_STORE_URL="file:///x", GUIDSVC_PORT="x", GUIDSVC_PROT="1").splitlines()

    assert lines[0].startswith("pdapt.py: unknown setting GUIDSVC_PROT in the environment")
    assert lines[1:] == [
        "pdapt.py: GUIDSVC_PORT: must be a whole number from 0 to 65535, not 'x'",
        "pdapt.py: GUIDSVC_STORE_URL: unsupported store file; use sqlite:///path or mongodb://host/name",
    ]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--port", "0"), "--port: 0 is any free port; name the one that the service listens on"),
        (("--port", "x"), "--port: must be a whole number from 0 to 65535, not 'x'"),
        (("--ready", "--server", "nginx"), "--server: must be httptools or tornado, not 'nginx'"),
    ],
)
def test_healthcheck_rejects_settings_as_usage_errors(tmp_path: Path, words: tuple[str, ...], line: str) -> None:
    assert refusal(tmp_path, "healthcheck", *words) == f"pdapt.py: {line}\n"


@pytest.mark.parametrize("command", ["config", "demo"])
def test_flags_of_serve_are_rejected_as_serve_rejects_them(tmp_path: Path, command: str) -> None:
    for flags in (("--port", "x"), ("--prot", "1"), ("--workers", "2"), ("--host", "0.0.0.0")):
        assert refusal(tmp_path, command, *flags) == refusal(tmp_path, "serve", *flags)


def test_every_command_on_this_host_is_tested() -> None:
    """The doctor reports invalid settings as a finding, and `completion` reads none."""
    on_this_host = {name for name, place in COMMANDS.items() if not place.startswith("guidsvc.cli.remote.")}
    others = {"healthcheck", "config", "demo", "doctor", "completion"}

    assert on_this_host == {*others, *(words[0] for words in STORE_COMMANDS)}
