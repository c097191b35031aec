"""Settings: where they come from, which wins, and what stops the start."""

from pathlib import Path

import pytest

from guidsvc.config import PREFIX, Settings, UsageError, load
from guidsvc.errors import StartError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to start in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_defaults_need_no_other_server() -> None:
    settings = load([])

    assert (settings.host, settings.port) == ("127.0.0.1", 8888)
    assert (settings.store_url, settings.cache_url) == ("sqlite:///guidsvc.db", "memory://")
    assert (settings.lifetime, settings.retention) == (30 * 86_400, 7 * 86_400)


def test_flag_overrides_environment_which_overrides_dotenv(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".env").write_text("GUIDSVC_PORT=1\nGUIDSVC_LIFETIME=1\nGUIDSVC_RETENTION=1\nCOMPOSE_PROJECT_NAME=x\n")
    monkeypatch.setenv("GUIDSVC_PORT", "2")
    monkeypatch.setenv("GUIDSVC_LIFETIME", "2")

    settings = load(["--port", "3"])
    assert (settings.port, settings.lifetime, settings.retention) == (3, 2, 1)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_a_flag_and_a_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {
        "access": "keys",
        "access_log": "false",
        "public_metrics": "true",
        "jwt_shared_owners": "true",
        "jwt_require_at_jwt": "true",
        "require_preconditions": "true",
        "cache_status": "true",
        "server_timing": "true",
        "guid_version": "7",
        "server": "tornado",
        "max_unsent_bytes": "67108864",
        "trusted_proxies": "10.0.0.0/8",
        "cors_origins": "https://a.example",
        "log_level": "error",
        "log_format": "json",
        "grace": "7.5",
        "max_head_bytes": "65536",
        "max_incoming_bytes": "1048576",
    }
    value = other.get(name, "7")
    monkeypatch.setenv(PREFIX + name.upper(), value)
    by_variable = getattr(load([]), name)
    monkeypatch.delenv(PREFIX + name.upper())
    flag = f"--{name.replace('_', '-')}"
    by_flag = getattr(
        load([flag] if value == "true" else ["--no-access-log"] if name == "access_log" else [flag, value]), name
    )

    assert by_variable == by_flag
    assert by_flag != Settings.model_fields[name].default


def test_empty_value_is_not_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(["--store-url="]).store_url == "", "which no store answers to"
    monkeypatch.setenv("GUIDSVC_STORE_URL", "")
    assert load([]).store_url == ""
    monkeypatch.setenv("GUIDSVC_PORT", "")
    with pytest.raises(StartError, match="port: "):
        load([])


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--prot", "1"], "--prot"),
        (["--port"], "--port"),
        (["--port", "x"], "port: .*integer.*'x'"),
        (["--port", "65536"], "port: "),
        (["--port", "-1"], "port: "),
        (["--lifetime", "0"], "lifetime: "),
        (["--cache-size", "0"], "cache_size: "),
        (["--cache-size", "many"], "cache_size: .*'many'"),
        (["--cache-size", "3 parsecs"], "cache_size: .*'3 parsecs'"),
        (["--guid-version", "5"], "guid_version: "),
        (["--grace", "-1"], "grace: "),
        (["--lifetime", "0", "--retention", "-1"], "lifetime: .*; retention: "),
        (["extra"], "extra"),
        (["--port="], "port: "),
        (["--host="], "host: "),
        (["--access-log=false"], "^--access-log takes no value: use --access-log or --no-access-log$"),
    ],
)
def test_unknown_or_invalid_flag_stops_the_start_with_one_line(arguments: list[str], why: str) -> None:
    with pytest.raises(StartError, match=why) as caught:
        load(arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prot", "1"], "unrecognized arguments: --prot 1; did you mean --port?"),
        (
            ["--store-ulr=x://u:p@h"],
            "unrecognized arguments: --store-ulr=x://u:***@h; did you mean --store-url?",
        ),
        (["--nonsense"], "unrecognized arguments: --nonsense; --help lists the flags"),
        (["--port"], "argument --port: expected one argument; --help lists the flags"),
    ],
)
def test_wrong_command_line_is_a_usage_error_with_a_suggestion(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(arguments)

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "size"),
    [("64MiB", 64 * 2**20), ("512KiB", 512 * 2**10), ("1GiB", 2**30), ("1000", 1000), ("10MB", 10_000_000)],
)
def test_size_is_in_bytes_or_has_a_unit(text: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(["--cache-size", text]).cache_size == size
    monkeypatch.setenv("GUIDSVC_CACHE_SIZE", text)
    assert load([]).cache_size == size


def test_cache_has_256_mib_by_default() -> None:
    assert load([]).cache_size == 256 * 2**20


def test_misspelt_variable_stops_the_start_with_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDSVC_STORE_ULR", "mongodb://db/guidsvc")

    with pytest.raises(StartError, match=r"GUIDSVC_STORE_ULR .* did you mean GUIDSVC_STORE_URL"):
        load([])


def test_misspelt_name_in_the_file_stops_the_start(folder: Path) -> None:
    (folder / ".env").write_text("GUIDSVC_PROT=1\n")

    with pytest.raises(StartError, match=r"GUIDSVC_PROT .* did you mean GUIDSVC_PORT"):
        load([])


# From files


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_variable_can_come_from_a_file(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default = Settings.model_fields[name].default
    value = {"access": "keys"}.get(name, "7" if default is None else str(default))
    (folder / "value").write_text(f"{value}\n")
    monkeypatch.setenv(f"{PREFIX}{name.upper()}_FILE", str(folder / "value"))

    assert getattr(load([]), name) == (value if default is None else default)


def test_file_counts_as_its_variable_would(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "secret").write_bytes(b"mongodb://u:p@db/guidsvc\r\n")
    (folder / "port").write_text("2")
    monkeypatch.setenv("GUIDSVC_STORE_URL_FILE", "secret")
    (folder / ".env").write_text("GUIDSVC_PORT_FILE=port\n")

    assert (load([]).store_url, load([]).port) == ("mongodb://u:p@db/guidsvc", 2)
    assert load(["--port", "3", "--store-url", "sqlite:///x"]).store_url == "sqlite:///x", "a flag wins, as ever"


@pytest.mark.parametrize("in_file", [True, False])
def test_variable_and_its_file_exclude_each_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, in_file: bool
) -> None:
    (folder / "secret").write_text("CANARY")
    monkeypatch.setenv("GUIDSVC_CACHE_URL_FILE", "secret")
    if in_file:
        (folder / ".env").write_text("GUIDSVC_CACHE_URL=memory://\n")
    else:
        monkeypatch.setenv("guidsvc_cache_url", "memory://")

    with pytest.raises(StartError, match=r"^GUIDSVC_CACHE_URL, GUIDSVC_CACHE_URL_FILE: both are set"):
        load([])


def test_unreadable_secret_file_stops_the_start_without_leaks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "bytes").write_bytes(b"CANARY\xff")
    (folder / "text").write_text("CANARY")
    for path in ("missing", ".", "bytes", "", "a\0b"):
        (folder / ".env").write_text(f'GUIDSVC_STORE_URL_FILE="{path}"\n')
        with pytest.raises(StartError, match=r"^GUIDSVC_STORE_URL_FILE: ") as caught:
            load([])
        assert "\n" not in str(caught.value)
        assert "CANARY" not in str(caught.value)
        assert "ff" not in str(caught.value)
    (folder / ".env").write_text("GUIDSVC_PORT_FILE=text\n")
    with pytest.raises(StartError, match=r"^port: ") as caught:
        load([])
    assert "CANARY" not in str(caught.value)


def test_misspelt_file_variable_gets_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDSVC_STORE_ULR_FILE", "secret")

    with pytest.raises(StartError, match="did you mean GUIDSVC_STORE_URL_FILE"):
        load([])


@pytest.mark.parametrize("text", [b"GUIDSVC_PORT=1\nnonsense here\n", b"GUIDSVC_HOST=\xff\n", b"=\n"])
def test_unreadable_dotenv_stops_the_start_with_one_line(folder: Path, text: bytes) -> None:
    (folder / ".env").write_bytes(text)

    with pytest.raises(StartError, match=r"^\.env") as caught:
        load([])
    assert "\n" not in str(caught.value)


def test_variables_of_the_tests_are_not_those_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDSVC_TEST_MONGO_URL", "mongodb://db")

    assert load([]).store_url == "sqlite:///guidsvc.db"


@pytest.mark.parametrize("name", ["unix_socket", "tls_cert", "audit_log"])
def test_word_none_is_a_value_like_any_other(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert getattr(load([f"--{name.replace('_', '-')}", "None"]), name) == "None"
    monkeypatch.setenv(f"{PREFIX}{name.upper()}", "None")
    assert getattr(load([]), name) == "None"
