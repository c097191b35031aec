"""`guidsvc config`: the settings in force, and their sources."""

import json
from pathlib import Path
from typing import Any

import pytest

from guidsvc.cli.settings_help import GROUPS, default_text
from guidsvc.config import Settings, flag
from tests.support.backing_servers import pdapt


def document(folder: Path, *arguments: str, **variables: str) -> dict[str, dict[str, Any]]:
    """Return the settings that `config --json` prints."""
    result = pdapt(folder, "config", "--json", *arguments, **variables)
    assert (result.returncode, result.stderr) == (0, "")
    members: dict[str, dict[str, Any]] = json.loads(result.stdout)
    return members


def test_all_settings_are_printed_in_the_groups_of_the_help(tmp_path: Path) -> None:
    result = pdapt(tmp_path, "config")

    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [f"{title}:" for title in GROUPS]
    rows = [line.split() for line in lines if line.startswith(" ")]
    assert [row[0] for row in rows] == [flag(name) for group in GROUPS.values() for name in group]
    assert {row[-1] for row in rows} == {"default"}
    for row in rows:
        assert " ".join(row[1:-1]) == default_text(row[0][2:].replace("-", "_"))
    assert set(document(tmp_path)) == set(Settings.model_fields)


def test_each_source_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# a comment\nGUIDSVC_QUOTA=7\nGUIDSVC_PORT=1\nGUIDSVC_HOSTS=a.example\n")
    (tmp_path / "url").write_text("redis://u:CANARY@cache:6379/0\n")
    url_file = str(tmp_path / "url")
    settings = document(
        tmp_path, "--port", "9000", "--no-access-log", GUIDSVC_HOSTS="b.example", GUIDSVC_CACHE_URL_FILE=url_file
    )

    assert settings["port"] == {"value": 9000, "source": "flag", "place": "--port"}
    assert settings["access_log"] == {"value": False, "source": "flag", "place": "--no-access-log"}
    assert settings["hosts"] == {"value": "b.example", "source": "variable", "place": "GUIDSVC_HOSTS"}
    quota_line = f"GUIDSVC_QUOTA ({tmp_path / '.env'}, line 2)"
    assert settings["quota"] == {"value": 7, "source": ".env", "place": quota_line}
    assert settings["cache_url"] == {
        "value": "redis://u:***@cache:6379/0",
        "source": "file",
        "place": f"GUIDSVC_CACHE_URL_FILE ({url_file})",
    }
    assert settings["workers"] == {"value": 1, "source": "default", "place": ""}


@pytest.mark.parametrize("arguments", [(), ("--json",), ("--changed",)])
def test_secrets_are_never_shown(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "issuer").write_text("CANARY-of-a-file")
    result = pdapt(
        tmp_path,
        "config",
        *arguments,
        "--access=keys",
        "--store-url",
        "mongodb://u:CANARY@h/x",
        GUIDSVC_CACHE_URL="redis://:CANARY@h:6379/0",
        GUIDSVC_PUBLIC_URL="https://registry.example",
        GUIDSVC_JWT_ISSUER_FILE="issuer",
    )

    assert (result.returncode, result.stderr) == (0, "")
    assert "CANARY" not in result.stdout
    assert "mongodb://u:***@h/x" in result.stdout
    assert "(hidden: it is read from a file)" in result.stdout


def test_only_changed_settings_are_printed_on_request(tmp_path: Path) -> None:
    result = pdapt(tmp_path, "config", "--changed", "--port", "9000", GUIDSVC_LIFETIME="90d")

    assert result.stdout.splitlines() == [
        "Listen:",
        "  --port      9000               --port",
        "Storage:",
        "  --lifetime  7776000 (90 days)  GUIDSVC_LIFETIME",
    ]
    assert pdapt(tmp_path, "config", "--changed").stdout == ""


def test_control_characters_are_escaped(tmp_path: Path) -> None:
    result = pdapt(tmp_path, "config", "--access=keys", "--jwt-audience", "a\x1b[31m", "--jwt-owner-claim", "b\x9b")

    assert result.returncode == 0
    assert r"a\x1b[31m" in result.stdout
    assert "\x1b" not in result.stdout
