"""Suggestions of the commands for mistyped flags and commands."""

import pytest

import guidsvc
from guidsvc.cli.commands import COMMANDS
from guidsvc.cli.parsing.program import run


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["keys", "crate"], "did you mean create?"),
        (["keys", "create", "--ownr", "a"], "--ownr: did you mean --owner?"),
        (["keys", "list", "--jsn"], "--jsn: did you mean --json?"),
        (["keys", "rotate", "x", "--overlp=1h"], "--overlp: did you mean --overlap?"),
        (["backup", "x", "--overwrit"], "--overwrit: did you mean --overwrite?"),
    ],
)
def test_mistyped_word_gets_a_suggestion(words: list[str], hint: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(words)

    assert ended.value.code == 2
    assert capfd.readouterr().err.splitlines()[-1].endswith(f"; {hint}")


def test_missing_command_is_answered_with_the_commands(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["keys"])

    assert capfd.readouterr().err.endswith("error: name a command: create, list, note, revoke, rotate, show\n")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["ls", "--port", "9000"], "--port; --port: use --url http://127.0.0.1:PORT"),
        (["status", "--host=db"], "--host=db; --host: use --url http://HOST:8888"),
        (["get", "--key", "x"], "--key; --key: use --key-file FILE, or the variable GUIDSVC_KEY"),
        (["keys", "list", "--token", "x"], "--token; --token: use --key-file FILE, or the variable GUIDSVC_KEY"),
        (["backup", "--port", "9000", "x"], "--port"),
    ],
)
def test_address_or_key_in_another_flag_gets_the_right_one(
    words: list[str], hint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(words)

    assert capfd.readouterr().err.endswith(f"error: unrecognized arguments: {hint}\n")


@pytest.mark.parametrize("words", [["list", "--frobnicate"], ["zzz"]])
def test_far_word_gets_no_suggestion(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["keys", *words])

    assert "did you mean" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["backup"], "the following arguments are required: TARGET"),
        (["backup", "a", "b", "c"], "unrecognized arguments: b c"),
        (["backup", "a", "--store-url"], "argument --store-url: needs a value"),
        (["backup", "a", "--overwrite=yes"], "argument --overwrite: takes no value"),
    ],
)
def test_usage_error_says_what_is_wrong(words: list[str], text: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(words)

    assert ended.value.code == 2
    usage, message = capfd.readouterr().err.splitlines()
    assert usage.endswith("backup [OPTIONS] TARGET")
    assert message.endswith(f"backup: error: {text}")


def test_mistyped_flag_of_healthcheck_is_not_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["healthcheck", "--redy"])

    assert ended.value.code == 2
    assert capfd.readouterr().err.endswith("unrecognized arguments: --redy; --redy: did you mean --ready?\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_version_and_examples(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    run([name, "--version"])
    assert capfd.readouterr().out == f"guidsvc {guidsvc.__version__}\n"

    run([name, "--help"])
    assert "\nexamples:\n" in capfd.readouterr().out
