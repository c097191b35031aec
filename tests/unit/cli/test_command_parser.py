"""Suggestions of the commands for mistyped flags and commands."""

import pytest

import guidsvc
from guidsvc.cli import backup, healthcheck, keys


@pytest.mark.parametrize(
    ("module", "words", "hint"),
    [
        (keys, ["crate"], "did you mean create?"),
        (keys, ["create", "--ownr", "a"], "--ownr: did you mean --owner?"),
        (keys, ["list", "--jsn"], "--jsn: did you mean --json?"),
        (keys, ["rotate", "x", "--overlp=1h"], "--overlp: did you mean --overlap?"),
        (backup, ["x", "--overwrit"], "--overwrit: did you mean --overwrite?"),
    ],
)
def test_mistyped_word_gets_a_suggestion(
    module: object, words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        module.parser().parse_args(words)  # type: ignore[attr-defined]

    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"; {hint}")


def test_missing_command_is_answered_with_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        keys.parser().parse_args([])

    assert capsys.readouterr().err.endswith("error: name a command: create, list, note, revoke, rotate\n")


@pytest.mark.parametrize("words", [["list", "--frobnicate"], ["zzz"]])
def test_far_word_gets_no_suggestion(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        keys.parser().parse_args(words)

    assert "did you mean" not in capsys.readouterr().err


def test_mistyped_flag_of_healthcheck_is_not_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        healthcheck.run(["--redy"])

    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith("unrecognized arguments: --redy; --redy: did you mean --ready?\n")


@pytest.mark.parametrize("module", [keys, backup, healthcheck])
def test_every_command_has_a_version_and_examples(module: object, capsys: pytest.CaptureFixture[str]) -> None:
    parser = module.parser()  # type: ignore[attr-defined]
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--version"])

    assert (ended.value.code, capsys.readouterr().out) == (0, f"guidsvc {guidsvc.__version__}\n")
    assert "\nexamples:\n" in parser.format_help()
