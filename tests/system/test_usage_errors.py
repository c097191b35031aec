"""Invalid settings of every command: exit code 2, and the same messages as `serve`."""

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


def usage_error(folder: Path, *arguments: str, **environment: str) -> str:
    """Return the error output of a command with invalid settings."""
    result = pdapt(folder, *arguments, **environment)
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    assert list(folder.iterdir()) == []
    return result.stderr


@pytest.mark.parametrize("url", URLS)
def test_store_url_is_rejected_like_that_of_serve(tmp_path: Path, url: str) -> None:
    by_flag = usage_error(tmp_path, "serve", "--store-url", url)
    assert by_flag.startswith("pdapt.py: --store-url: ")

    for arguments in STORE_COMMANDS:
        is_mongo_backup = arguments[0] == "backup" and url.startswith("mongodb:")
        expected = f"pdapt.py: --store-url: {BACKUP_ONLY_SQLITE}\n" if is_mongo_backup else by_flag
        assert usage_error(tmp_path, *arguments, "--store-url", url) == expected, arguments


@pytest.mark.parametrize("arguments", [("serve",), *STORE_COMMANDS])
def test_all_faults_are_listed_by_their_source(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    lines = usage_error(
        tmp_path, *arguments, GUIDSVC_STORE_URL="file:///x", GUIDSVC_PORT="x", GUIDSVC_PROT="1"
    ).splitlines()

    assert lines[0].startswith("pdapt.py: unknown setting GUIDSVC_PROT in the environment")
    assert lines[1:] == [
        "pdapt.py: GUIDSVC_PORT: must be a whole number from 0 to 65535, not 'x'",
        "pdapt.py: GUIDSVC_STORE_URL: unsupported store file; use sqlite:///path or mongodb://host/name",
    ]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--port", "0"), "--port: 0 is any free port; name the one that the service listens on"),
        (("--port", "x"), "--port: must be a whole number from 0 to 65535, not 'x'"),
        (("--ready", "--server", "nginx"), "--server: must be httptools or tornado, not 'nginx'"),
    ],
)
def test_healthcheck_rejects_settings_as_usage_errors(tmp_path: Path, arguments: tuple[str, ...], line: str) -> None:
    assert usage_error(tmp_path, "healthcheck", *arguments) == f"pdapt.py: {line}\n"


@pytest.mark.parametrize("command", ["config", "demo"])
def test_flags_of_serve_are_rejected_as_serve_rejects_them(tmp_path: Path, command: str) -> None:
    for flags in (("--port", "x"), ("--prot", "1"), ("--workers", "2"), ("--host", "0.0.0.0")):
        assert usage_error(tmp_path, command, *flags) == usage_error(tmp_path, "serve", *flags)


def test_every_command_on_this_host_is_tested() -> None:
    """The doctor reports invalid settings as a finding, and `completion` reads no settings."""
    on_this_host = {name for name, module in COMMANDS.items() if not module.startswith("guidsvc.cli.remote.")}
    settings_commands = {"healthcheck", "config", "demo", "doctor", "completion"}

    assert on_this_host == {*settings_commands, *(arguments[0] for arguments in STORE_COMMANDS)}
