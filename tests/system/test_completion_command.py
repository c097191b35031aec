"""`guidsvc completion`, and the completion requests of a shell."""

import shutil
import subprocess
from pathlib import Path

import pytest

from guidsvc.cli.commands import COMPLETION_VARIABLE, SUMMARIES
from tests.support.backing_servers import START_SECONDS, pdapt


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_asks_the_command_by_its_variable(tmp_path: Path, shell: str) -> None:
    result = pdapt(tmp_path, "completion", shell)

    assert result.returncode == 0
    assert f"{COMPLETION_VARIABLE}={shell}_complete" in result.stdout
    assert "guidsvc" in result.stdout


def test_script_of_bash_is_valid(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    script = pdapt(tmp_path, "completion", "bash").stdout
    subprocess.run([bash, "-n"], input=script, text=True, check=True, timeout=START_SECONDS)


def test_unknown_shell_is_a_usage_error(tmp_path: Path) -> None:
    result = pdapt(tmp_path, "completion", "csh")

    assert result.returncode == 2
    assert "argument bash|zsh|fish: invalid choice: 'csh' (choose from 'bash', 'zsh', 'fish')" in result.stderr


@pytest.mark.parametrize(
    ("command_line", "index", "expected"),
    [
        ("guidsvc ", 1, set(SUMMARIES)),
        ("guidsvc back", 1, {"backup"}),
        ("guidsvc --stor", 1, {"--store-url"}),
        ("guidsvc serve --no-acc", 2, {"--no-access-log"}),
        ("guidsvc keys ro", 2, {"rotate"}),
        ("guidsvc keys rotate --over", 3, {"--overlap"}),
        ("guidsvc doctor --store", 2, {"--store-url"}),
        ("guidsvc doctor --de", 2, {"--deep"}),
    ],
)
def test_words_and_flags_are_completed(tmp_path: Path, command_line: str, index: int, expected: set[str]) -> None:
    variables = {COMPLETION_VARIABLE: "bash_complete", "COMP_WORDS": command_line, "COMP_CWORD": str(index)}
    result = pdapt(tmp_path, **variables)

    assert result.returncode == 0
    assert {line.partition(",")[2] for line in result.stdout.splitlines()} == expected
