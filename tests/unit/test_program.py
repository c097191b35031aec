"""The name of the program in messages, depending on how it was started."""

import sys

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
    monkeypatch: pytest.MonkeyPatch, path: str, name: str, command: str
) -> None:
    monkeypatch.setattr(sys, "argv", [path])

    assert (program(), runnable("keys list")) == (name, command)
    assert str(unknown_key()).endswith(f": {command.removesuffix('list')}create --owner NAME")
