"""The name of the program in messages, depending on how it was started."""

import sys
from pathlib import Path

import pytest

from guidsvc.auth.authenticator import unknown_key
from guidsvc.program import program, runnable


@pytest.mark.parametrize(
    ("path", "name", "command"),
    [
        ("pdapt.py", "pdapt.py", "python pdapt.py keys list"),
        ("/srv/guidsvc/pdapt.py", "pdapt.py", "python pdapt.py keys list"),
        ("/usr/bin/guidsvc", "guidsvc", "guidsvc keys list"),
    ],
)
def test_command_in_a_message_names_the_interpreter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str, name: str, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [path])

    assert (program(), runnable("keys list")) == (name, command)
    assert str(unknown_key()).endswith(f": {command.removesuffix('list')}create --owner NAME")


def test_command_names_the_environment_of_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Any other `python` lacks the packages. The path is shown only relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pdapt.py"])
    monkeypatch.setattr(sys, "executable", f"{tmp_path}/.venv/bin/python")
    assert runnable("keys list") == ".venv/bin/python pdapt.py keys list"

    monkeypatch.setattr(sys, "executable", f"{tmp_path}/../other/bin/python")
    assert runnable("keys list") == "python pdapt.py keys list"
