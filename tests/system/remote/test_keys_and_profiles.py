"""Where the address and the key come from; what is refused."""

from pathlib import Path

import pytest

from guidsvc.cli.remote import profiles
from tests.support.command_line import CommandLine, profile
from tests.support.guarded_service import GuardedService


@pytest.fixture
def line(guarded: GuardedService, tmp_path: Path) -> CommandLine:
    """Commands without an address and a key."""
    return CommandLine(tmp_path)


def key_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    """Write a file with a key."""
    path = folder / "key"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_key_comes_from_a_file(line: CommandLine, guarded: GuardedService, tmp_path: Path) -> None:
    path = key_file(tmp_path, f"{guarded.key}\n")
    url = guarded.service.url

    assert line.ok("ls", "--url", url, "--key-file", str(path)).err == ""
    assert line.ok("ls", "--url", url, GUIDSVC_KEY_FILE=str(path)).code == 0
    assert line.ok("ls", "--url", url, "--key-file", str(path), GUIDSVC_KEY="gs_wrong").code == 0
    assert line("ls", "--url", url).code == 5
    assert line("ls", "--url", url, GUIDSVC_KEY="gs_wrong").code == 5


def test_key_file_that_others_can_read_is_noted(line: CommandLine, guarded: GuardedService, tmp_path: Path) -> None:
    path = key_file(tmp_path, guarded.key, 0o644)
    done = line.ok("ls", "--url", guarded.service.url, "--key-file", str(path))

    assert done.err == f"guidsvc: other users can read {path}; run: chmod 600 {path}\n"


@pytest.mark.parametrize("member", ["key_file", "key_command"])
def test_profile_names_the_address_and_the_key(
    line: CommandLine, guarded: GuardedService, tmp_path: Path, member: str
) -> None:
    path = key_file(tmp_path, guarded.key)
    value = str(path) if member == "key_file" else f"cat {path}"
    profile(line, f'[profile.prod]\nurl = "{guarded.service.url}"\n{member} = "{value}"\n')

    assert line.ok("whoami", "--profile", "prod").json["owner"] == "operations"
    assert line.ok("whoami", GUIDSVC_PROFILE="prod").json["owner"] == "operations"
    assert line.ok("whoami", "--profile", "prod", GUIDSVC_URL="http://127.0.0.1:1").json["owner"] == "operations"


def test_key_of_a_profile_goes_to_its_address_only(line: CommandLine, guarded: GuardedService, tmp_path: Path) -> None:
    path = key_file(tmp_path, guarded.key)
    profile(line, f'[profile.prod]\nurl = "https://guids.example"\nkey_file = "{path}"\n')

    assert line("ls", "--url", guarded.service.url, GUIDSVC_PROFILE="prod").code == 5
    assert line("ls", GUIDSVC_URL=guarded.service.url, GUIDSVC_PROFILE="prod").code == 5


def test_profile_without_a_key_gets_none_from_the_environment(line: CommandLine, guarded: GuardedService) -> None:
    profile(line, f'[profile.open]\nurl = "{guarded.service.url}"\n')

    assert line("ls", "--profile", "open", GUIDSVC_KEY=guarded.key).code == 5


@pytest.mark.parametrize(
    ("text", "mode", "fault"),
    [
        ("", 0o640, "is open to other users; run: chmod 600"),
        ("", 0o602, "is open to other users; run: chmod 600"),
        ("oops", 0o600, "is not TOML"),
        ("a = " + "[" * 5000, 0o600, "is nested too deeply"),
        ("profile = 1", 0o600, "profile is not a table"),
        ('[profile.dev]\nurl = "http://a"', 0o600, "it has dev; add [profile.prod]"),
        ("", 0o600, "it has none"),
        ("[profile]\nprod = 1", 0o600, "must be a table of texts"),
        ("[profile.prod]\nurl = 1", 0o600, "must be a table of texts"),
        ('[profile.prod]\nkey = "gs_x"', 0o600, "key is not known"),
        ('[profile.prod]\nkey_file = "x"', 0o600, "url is missing"),
        ('[profile.prod]\nurl = "http://a"\nkey_file = "x"\nkey_command = "y"', 0o600, "exclude each other"),
        ('[profile.prod]\nurl = "http://a"\nkey_file = "/nowhere/x"', 0o600, "No such file"),
        ('[profile.prod]\nurl = "http://a"\nkey_command = "false"', 0o600, "exited with 1"),
        ('[profile.prod]\nurl = "http://a"\nkey_command = "/nowhere/x"', 0o600, "cannot run"),
        ('[profile.prod]\nurl = "http://a"\nkey_command = "echo a b"', 0o600, "is not a key"),
        ('[profile.prod]\nurl = "http://a"\nkey_command = "true"', 0o600, "is empty"),
        ('[profile.prod]\nurl = "a"', 0o600, "is not the URL of a service"),
    ],
)
def test_wrong_profile_is_a_usage_error(line: CommandLine, text: str, mode: int, fault: str) -> None:
    path = profile(line, text, mode)
    done = line("whoami", "--profile", "prod")

    assert (done.code, done.out) == (2, "")
    assert fault in done.err
    assert path.parent.exists()


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("cat key | head -1", "exited with 1"),
        ("cat ~/key", "exited with 1"),
        ("TOKEN=x printenv TOKEN", "cannot run: No such file or directory"),
        ("echo $GUIDSVC_TEST", "printed its own text in place of a key"),
        ("echo a > b", "printed its own text in place of a key"),
        ("true && echo", "is empty"),
    ],
)
def test_key_command_that_needs_a_shell_says_so(line: CommandLine, command: str, fault: str) -> None:
    profile(line, f'[profile.prod]\nurl = "http://127.0.0.1:1"\nkey_command = "{command}"\n')
    done = line("whoami", "--profile", "prod")

    assert (done.code, done.out) == (2, "")
    assert f"{fault}; it runs without a shell: for pipes, $VARIABLES, * or ~, write sh -c '...'\n" in done.err


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("false", "exited with 1; run it yourself to see why"),
        ("/nowhere/x", "cannot run: No such file or directory; name a program on PATH, or its whole path"),
        ("sh -c 'exit 3 | false'", "exited with 1; run it yourself"),
        ("printf '\\\\377'", "cannot run: not UTF-8"),
    ],
)
def test_other_key_commands_say_nothing_of_a_shell(line: CommandLine, command: str, fault: str) -> None:
    profile(line, f'[profile.prod]\nurl = "http://127.0.0.1:1"\nkey_command = "{command}"\n')
    done = line("whoami", "--profile", "prod")

    assert done.code == 2
    assert fault in done.err
    assert "without a shell" not in done.err


def test_missing_file_of_profiles_is_a_usage_error(line: CommandLine) -> None:
    done = line("whoami", "--profile", "prod")

    assert done.code == 2
    assert "config.toml does not exist" in done.err


@pytest.mark.parametrize(
    ("words", "variables", "fault"),
    [
        (["--url", "http://a", "--profile", "b"], {}, "--url and --profile exclude each other"),
        ([], {"GUIDSVC_KEY": "a", "GUIDSVC_KEY_FILE": "b"}, "GUIDSVC_KEY and GUIDSVC_KEY_FILE exclude each other"),
        ([], {"GUIDSVC_KEY": "a b"}, "GUIDSVC_KEY is not a key"),
        ([], {"GUIDSVC_KEY_FILE": "/dev/zero"}, "not a regular file"),
        ([], {"GUIDSVC_URL": "127.0.0.1:8888"}, "write http://127.0.0.1:8888 or https://127.0.0.1:8888"),
        (["--url", "localhost:8888"], {}, "'localhost:8888' has no scheme; write http://localhost:8888 or"),
        (["--url", "user:secret"], {}, "'***' is not the URL of a service"),
        (["--url", "http://user:secret@host"], {}, "has more than an address"),
        (["--url", "http://host/?a=b"], {}, "has more than an address"),
        (["--url", "http://a..b"], {}, "is not the URL of a service"),
        (["--url", "http://host:99999"], {}, "is not the URL of a service"),
        (["--url", "http://a\x1b[31mb"], {}, "is not the URL of a service"),
    ],
)
def test_contradictions_are_usage_errors(
    line: CommandLine, words: list[str], variables: dict[str, str], fault: str
) -> None:
    done = line("whoami", *words, **variables)

    assert (done.code, done.out) == (2, "")
    assert fault in done.err
    assert "secret" not in done.err
    assert "\x1b" not in done.err


@pytest.mark.parametrize("command", ["yes", "sleep 600", "sh -c 'exec >&-; sleep 600'"])
def test_key_command_is_bounded(line: CommandLine, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setattr(profiles, "COMMAND_SECONDS", 60.0 if command == "yes" else 0.2)
    profile(line, f'[profile.prod]\nurl = "http://a"\nkey_command = "{command}"\n')
    done = line("whoami", "--profile", "prod")

    assert done.code == 2
    assert "or printed more than 16384 bytes; run it yourself" in done.err
