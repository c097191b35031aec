"""What a start imports: only what the settings need."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OPTIONAL = {"redis", "hiredis", "limits", "cryptography", "jwt", "motor", "pymongo", "prometheus_client"}
START = """
import asyncio, sys
from guidsvc.bootstrap import validation
from guidsvc.bootstrap.app import serving

async def main():
    async with serving(validation.load(["--port", "0", *sys.argv[1:]])):
        print(*sys.modules)

asyncio.run(main())
"""


COMMAND = """
import sys
from guidsvc.cli.main import main
try:
    main()
finally:
    print(*sys.modules)
"""


def imported(folder: Path, code: str, *words: str) -> set[str]:
    """Return the modules that a new process has imported when it has run this code."""
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(("flags", "needed"), [([], set()), (["--access", "keys"], {"limits"})])
def test_start_imports_only_what_the_settings_need(tmp_path: Path, flags: list[str], needed: set[str]) -> None:
    assert imported(tmp_path, START, *flags) & OPTIONAL == needed


@pytest.mark.parametrize("command", ["healthcheck", "keys", "backup"])
def test_command_imports_no_server(tmp_path: Path, command: str) -> None:
    assert not imported(tmp_path, COMMAND, command, "--help") & {*OPTIONAL, "tornado", "httptools", "uvloop"}
