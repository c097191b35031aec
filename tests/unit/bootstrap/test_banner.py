"""The startup banner."""

import json
from pathlib import Path

import pytest

from guidsvc.bootstrap.banner import banner
from guidsvc.bootstrap.preflight import UNKNOWN, Preflight
from guidsvc.config import load


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines_of(*arguments: str, preflight: Preflight = UNKNOWN) -> dict[str, str]:
    """Return the banner for these flags, by the first word of each line; the first line has the key `at`."""
    first_line, *other_lines = banner(load(arguments), 9000, preflight).splitlines()
    return {"at": first_line.rpartition(" at ")[2]} | {line[2:10].strip(): line[11:] for line in other_lines}


@pytest.mark.parametrize(("host", "loopback"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]")])
def test_every_address_is_named_with_a_warning(host: str, loopback: str) -> None:
    lines = lines_of("--host", host, "--access", "off")

    assert lines["at"] == f"http://{loopback}:9000"
    assert lines["docs"] == f"http://{loopback}:9000/docs"
    assert lines.get("also", "http://:9000").startswith("http://"), "a host without a network has no other address"
    assert loopback not in lines.get("also", "")
    assert lines["warning"].startswith("everybody on the network can read, change and delete all records")


@pytest.mark.parametrize("arguments", [(), ("--unix-socket", "s"), ("--host", "0.0.0.0", "--access", "keys")])
def test_local_or_guarded_service_gives_no_warning(arguments: tuple[str, ...]) -> None:
    assert "warning" not in lines_of(*arguments)


def test_console_that_is_off_is_not_named() -> None:
    assert "console" not in lines_of("--no-console")


def test_unix_socket_is_named_instead_of_a_port() -> None:
    lines = lines_of("--unix-socket", "/run/s")

    assert (lines["at"], lines["docs"]) == ("/run/s", "http://localhost/docs")
    assert lines["try"].startswith("curl --unix-socket /run/s -X PUT")


def test_store_has_an_absolute_path_and_no_password(folder: Path) -> None:
    assert lines_of("--store-url", "sqlite:///a.db")["records"] == str(folder / "a.db")
    assert lines_of("--store-url", "mongodb://u:p@h/x")["records"] == "mongodb://u:***@h/x"


@pytest.mark.parametrize(
    ("responds", "state"), [(True, " (answers)"), (False, " (no answer yet; reads go to the store)"), (None, "")]
)
def test_state_of_the_cache_is_named(*, responds: bool | None, state: str) -> None:
    lines = lines_of("--cache-url", "redis://:p@h/0", preflight=Preflight(responds, None))

    assert lines["cache"] == f"redis://:***@h/0{state}"


def test_cache_without_memory_is_named() -> None:
    redis = lines_of("--cache-url", "redis://h/0", "--cache-size", "0", preflight=Preflight(True, None))

    assert lines_of("--cache-size", "0")["cache"] == "memory:// (off: --cache-size 0; reads go to the store)"
    assert lines_of("--cache-size", "1MiB")["cache"] == "memory://"
    assert redis["cache"] == "redis://h/0 (answers); none in the process: --cache-size 0"


def test_unknown_host_of_the_cache_is_named() -> None:
    lines = lines_of("--cache-url", "redis://:p@nosuch:6379/0", preflight=Preflight(False, None, "nosuch"))

    assert lines["cache"] == (
        "redis://:***@nosuch:6379/0 (unknown host nosuch; correct the URL or the DNS; reads go to the store)"
    )


def test_values_with_hidden_characters_are_escaped() -> None:
    text = banner(load(["--store-url", "sqlite:///a\u202eb\n\x1b[31m.db", "--unix-socket", "s \u2066"]), 0, UNKNOWN)

    assert r"a\u202eb\n\x1b[31m.db" in text
    assert text.splitlines()[0].endswith(r" at s \u2066")
    assert all(line.isprintable() for line in text.split("\n"))


def test_command_for_the_first_key_names_the_store(folder: Path) -> None:
    def command(*arguments: str) -> str:
        return lines_of("--access", "keys", *arguments, preflight=Preflight(None, has_keys=False))["keys"]

    assert command().endswith(" keys create --owner NAME")
    assert command("--store-url", "sqlite:///a b.db").endswith(f" --store-url 'sqlite:///{folder}/a b.db'")
    assert command("--store-url", "mongodb://h/x").endswith(" --store-url mongodb://h/x")
    assert command("--store-url", "mongodb://u:p@h/x").endswith(" --owner NAME"), "a password is not printed"
    assert "keys" not in lines_of("--access", "keys", preflight=Preflight(None, has_keys=True))


def test_place_of_the_audit_log_is_named(folder: Path) -> None:
    assert "audit" not in lines_of()
    assert lines_of("--access", "keys")["audit"].startswith("standard error, in this log")
    assert lines_of("--access", "keys", "--audit-log", "off")["audit"] == "off"
    assert lines_of("--audit-log", "a.log")["audit"] == str(folder / "a.log")


def test_json_banner_is_one_line_with_the_same_facts() -> None:
    text = banner(load(["--log-format", "json", "--access", "off"]), 9000, UNKNOWN)
    line = json.loads(text)

    assert "\n" not in text
    assert (line["event"], line["level"], line["url"]) == ("serving", "info", ["http://127.0.0.1:9000"])
    assert line["docs"] == "http://127.0.0.1:9000/docs"
    assert line["console"] == "http://127.0.0.1:9000/console"
