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


NEEDED = "workers: 2 need a shared cache; use --cache-url redis://host:6379/0, or --workers 1"
UNGUARDED = "access: required for 0.0.0.0 (--host). Run `keys create` and use --access keys"
IN_FILE = "redis://host:6379/0 in the file of GUIDSVC_CACHE_URL_FILE"
MADE = 'use --port 0 (make run ARGS="--port 0")'


@pytest.mark.parametrize(
    ("message", "words", "environment", "spelled"),
    [
        (NEEDED, ["--workers", "2"], {}, f"--{NEEDED}"),
        (
            NEEDED,
            [],
            {"GUIDSVC_WORKERS": "2"},
            "GUIDSVC_WORKERS: 2 need a shared cache; use GUIDSVC_CACHE_URL=redis://host:6379/0, or GUIDSVC_WORKERS=1",
        ),
        (
            NEEDED,
            ["--workers=2"],
            {"guidsvc_cache_url": "memory://"},
            "--workers: 2 need a shared cache; use guidsvc_cache_url=redis://host:6379/0, or --workers 1",
        ),
        (
            NEEDED,
            ["--workers=2"],
            {"GUIDSVC_CACHE_URL_FILE": "/run/url"},
            f"--{NEEDED.replace('--cache-url redis://host:6379/0', IN_FILE)}",
        ),
        (
            UNGUARDED,
            [],
            {"GUIDSVC_HOST": "0.0.0.0"},
            "GUIDSVC_ACCESS: required for 0.0.0.0 (GUIDSVC_HOST). Run `keys create` and use GUIDSVC_ACCESS=keys",
        ),
        (UNGUARDED, ["--host", "0.0.0.0"], {}, f"--{UNGUARDED}"),
        (f"port: {MADE}", [], {"GUIDSVC_PORT": "1"}, f"GUIDSVC_PORT: {MADE.replace('--port 0 ', 'GUIDSVC_PORT=0 ')}"),
        ("x; did you mean --port?", [], {"GUIDSVC_PORT": "1"}, "x; did you mean --port?"),
    ],
)
def test_remedies_are_in_the_spelling_of_the_user(
    message: str, words: list[str], environment: Mapping[str, str], spelled: str
) -> None:
    assert SettingSources(words, environment).spell(message) == spelled


def test_text_of_a_setting_in_a_file_is_that_of_the_file(folder: Path) -> None:
    (folder / "format").write_text("json\n")

    assert SettingSources([], {"GUIDSVC_LOG_FORMAT_FILE": "format"}).text("log_format") == "json"
    assert SettingSources([], {"GUIDSVC_LOG_FORMAT_FILE": "missing"}).text("log_format") is None


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
