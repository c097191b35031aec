"""What a start imports: only what the settings need."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.backing_servers import START_SECONDS

ROOT = Path(__file__).parents[2]
OPTIONAL = {
    "redis",
    "hiredis",
    "limits",
    "cryptography",
    "jwt",
    "motor",
    "pymongo",
    "prometheus_client",
    "opentelemetry",
}
OF_COMMANDS = {"click", "httpx2", "tenacity", "rich", "guidsvc_client"}
START = """
import asyncio, sys
from guidsvc.bootstrap import validation
from guidsvc.bootstrap.app import serving

async def main():
    async with serving(validation.load(["--port", "0", *sys.argv[1:]])):
        print(*sys.modules)

asyncio.run(main())
"""


SERVICE = """
import os, signal, sys
from guidsvc.bootstrap import run
from guidsvc.cli.main import main
print_banner = run.print_banner

def stop_when_it_serves(text):
    print_banner(text)
    os.kill(os.getpid(), signal.SIGTERM)

run.print_banner = stop_when_it_serves
main()
print(*sys.modules)
"""
STRUCTLOG = (
    "import structlog, sys; print(*sys.modules)"  # it imports rich where that is installed; the service needs none
)
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
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("flags", "needed"), [([], set()), (["--access", "keys"], {"limits"}), (["--tracing", "otlp"], {"opentelemetry"})]
)
def test_start_imports_only_what_the_settings_need(tmp_path: Path, flags: list[str], needed: set[str]) -> None:
    assert imported(tmp_path, START, *flags) & OPTIONAL == needed


@pytest.mark.parametrize("words", [[], ["serve"]], ids=["without a word", "serve"])
def test_service_imports_nothing_of_the_commands(tmp_path: Path, words: list[str]) -> None:
    output = tmp_path / "output"
    command = [sys.executable, "-c", SERVICE, *words, "--port", "0", "--access-log"]
    with output.open("wb") as out:
        done = subprocess.run(
            command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, stdout=out, timeout=START_SECONDS, check=True
        )
    assert done.returncode == 0
    modules = set(output.read_text().splitlines()[-1].split())
    assert {"tornado", "guidsvc.bootstrap.app"} <= modules
    assert modules & OF_COMMANDS <= imported(tmp_path, STRUCTLOG)


@pytest.mark.parametrize("words", [["--help"], ["help"], ["--version"], ["serve", "--help"]], ids=" ".join)
def test_help_lists_the_commands_without_importing_them(tmp_path: Path, words: list[str]) -> None:
    modules = imported(tmp_path, COMMAND, *words)

    assert "guidsvc.cli.commands" in modules
    assert "click" not in modules


@pytest.mark.parametrize("command", ["healthcheck", "keys", "backup", "config", "doctor", "demo", "completion", "help"])
def test_command_imports_no_server(tmp_path: Path, command: str) -> None:
    assert not imported(tmp_path, COMMAND, command, "--help") & {*OPTIONAL, "tornado", "httptools", "uvloop"}


@pytest.mark.parametrize("command", ["ls", "watch", "import"])
def test_command_over_http_imports_no_server(tmp_path: Path, command: str) -> None:
    """The client imports OpenTelemetry where that is installed, and its tenacity tornado."""
    found = imported(tmp_path, COMMAND, command, "--help")

    assert "guidsvc_client" in found
    server = {*OPTIONAL, "httptools", "uvloop", "guidsvc.api", "guidsvc.bootstrap", "guidsvc.store"}
    assert not found & (server - {"opentelemetry"})
