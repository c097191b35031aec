"""The spelling of a setting in messages: as the user wrote it."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from guidsvc.cli.setting_sources import SettingSources


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to start in, with a `.env` file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("# comment\n\nGUIDSVC_RATE_LIMIT=x\n\nGUIDSVC_QUOTA_FILE=/run/quota\n")
    return tmp_path


@pytest.mark.parametrize(
    ("setting", "words", "environment", "spelling"),
    [
        ("rate_limit", ["--rate-limit", "x"], {"GUIDSVC_RATE_LIMIT": "x"}, "--rate-limit"),
        ("rate_limit", ["--rate-limit=x"], {}, "--rate-limit"),
        ("access_log", ["--no-access-log"], {}, "--no-access-log"),
        ("rate_limit", [], {"GUIDSVC_RATE_LIMIT": "x"}, "GUIDSVC_RATE_LIMIT"),
        ("rate_limit", [], {"guidsvc_Rate_Limit": "x"}, "guidsvc_Rate_Limit"),
        ("rate_limit", [], {}, "GUIDSVC_RATE_LIMIT ({folder}/.env, line 3)"),
        ("store_url", [], {"GUIDSVC_STORE_URL_FILE": "/run/url"}, "GUIDSVC_STORE_URL_FILE (/run/url)"),
        ("quota", [], {}, "GUIDSVC_QUOTA_FILE ({folder}/.env, line 5: /run/quota)"),
        ("port", [], {"GUIDSVC_PORT": "tcp://10.0.0.1:8888"}, "--port"),
        ("store_url", [], {}, "--store-url"),
    ],
)
def test_spelling_is_that_of_the_source_in_force(
    folder: Path, setting: str, words: list[str], environment: Mapping[str, str], spelling: str
) -> None:
    assert SettingSources(words, environment).spelling(setting) == spelling.format(folder=folder)


@pytest.mark.parametrize(
    ("message", "spelled"),
    [
        ("host, port: cannot listen", "--host, GUIDSVC_PORT: cannot listen"),
        ("port: a\nquota: b", "GUIDSVC_PORT: a\nGUIDSVC_QUOTA: b"),
        ("backup: exists", "backup: exists"),
        ("port, nonsense: x", "port, nonsense: x"),
        ("a worker died", "a worker died"),
    ],
)
def test_names_of_settings_at_the_start_of_a_line_are_spelled(message: str, spelled: str) -> None:
    sources = SettingSources([], {"GUIDSVC_PORT": "1", "GUIDSVC_QUOTA": "1"})

    assert sources.spell(message) == spelled


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--log-format", "json"], "json"),
        (["--log-format=json"], "json"),
        (["--log-format=json", "--log-format", "auto"], "auto"),
        (["--log-format"], None),
        ([], "console"),
    ],
)
def test_text_of_a_setting_is_that_of_the_last_flag(words: list[str], text: str | None) -> None:
    assert SettingSources(words, {"GUIDSVC_LOG_FORMAT": "console"}).text("log_format") == text
