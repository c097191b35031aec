"""The imports at the start: only those that the settings need."""

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
COMMAND_PACKAGES = {"click", "httpx2", "tenacity", "rich", "guidsvc_client"}
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


def modules_after(folder: Path, code: str, *arguments: str) -> set[str]:
    """Return the modules of a new process after this code."""
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    return set(result.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("flags", "needed"), [([], set()), (["--access", "keys"], {"limits"}), (["--tracing", "otlp"], {"opentelemetry"})]
)
def test_start_imports_only_what_the_settings_need(tmp_path: Path, flags: list[str], needed: set[str]) -> None:
    assert modules_after(tmp_path, START, *flags) & OPTIONAL == needed


@pytest.mark.parametrize("arguments", [[], ["serve"]], ids=["without a word", "serve"])
def test_service_imports_nothing_of_the_commands(tmp_path: Path, arguments: list[str]) -> None:
    output = tmp_path / "output"
    command = [sys.executable, "-c", SERVICE, *arguments, "--port", "0", "--access-log"]
    with output.open("wb") as out:
        result = subprocess.run(
            command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, stdout=out, timeout=START_SECONDS, check=True
        )
    assert result.returncode == 0
    modules = set(output.read_text().splitlines()[-1].split())
    assert {"tornado", "guidsvc.bootstrap.app"} <= modules
    assert modules & COMMAND_PACKAGES <= modules_after(tmp_path, STRUCTLOG)


@pytest.mark.parametrize("arguments", [["--help"], ["help"], ["--version"], ["serve", "--help"]], ids=" ".join)
def test_help_lists_the_commands_without_importing_them(tmp_path: Path, arguments: list[str]) -> None:
    modules = modules_after(tmp_path, COMMAND, *arguments)

    assert "guidsvc.cli.commands" in modules
    assert "click" not in modules


@pytest.mark.parametrize("command", ["healthcheck", "keys", "backup", "config", "doctor", "demo", "completion", "help"])
def test_command_imports_no_server(tmp_path: Path, command: str) -> None:
    assert not modules_after(tmp_path, COMMAND, command, "--help") & {*OPTIONAL, "tornado", "httptools", "uvloop"}


@pytest.mark.parametrize("command", ["ls", "import", "completion"])
def test_command_without_settings_does_not_import_their_table(tmp_path: Path, command: str) -> None:
    assert not modules_after(tmp_path, COMMAND, command, "--help") & {"guidsvc.config", "pydantic_settings"}


@pytest.mark.parametrize("command", ["ls", "watch", "import"])
def test_command_over_http_imports_no_server(tmp_path: Path, command: str) -> None:
    """The client imports OpenTelemetry if it is installed, and tenacity imports tornado."""
    modules = modules_after(tmp_path, COMMAND, command, "--help")

    assert "guidsvc_client" in modules
    server = {*OPTIONAL, "httptools", "uvloop", "guidsvc.api", "guidsvc.bootstrap", "guidsvc.store"}
    assert not modules & (server - {"opentelemetry"})
