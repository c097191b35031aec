"""Build a wheel of the service from a source tree, and install it into an empty virtual environment."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from tests.support.virtual_environment import pip_for

INSTALL_SECONDS = 180


def run(folder: Path, *command: str) -> str:
    """Run a command in a folder; return its output."""
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS
    ).stdout


def build_wheel(source: Path, folder: Path) -> Path:
    """Build the wheel of a source tree into a folder."""
    run(source, sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))
    (wheel,) = folder.glob("*.whl")
    return wheel


def install_wheel(wheel: Path, environment: Path) -> Path:
    """Install a wheel; return the folder of commands. Its dependencies come from the environment of the tests."""
    commands = empty_environment(environment)
    add_wheel(wheel, commands)
    return commands


def empty_environment(environment: Path) -> Path:
    """Create a virtual environment with access to the packages of the tests; return its folder of commands."""
    venv.create(environment)
    commands = environment / "bin"
    program = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(environment, str(commands / "python"), "-c", program).strip())
    (site / "of_the_tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return commands


def add_wheel(wheel: Path, commands: Path) -> None:
    """Install a further wheel into a virtual environment, given by its folder of commands."""
    options = ("--quiet", "--no-compile", "--no-index", "--no-deps")
    run(wheel.parent, *pip_for(commands / "python"), "install", *options, str(wheel))
