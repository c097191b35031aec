"""The line for a command whose extra is not installed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.backing_servers import ROOT, START_SECONDS

BLOCKED = """
import sys
from guidsvc.cli.main import main
sys.modules[{package!r}] = None
sys.argv = {words!r}
main()
"""


def run(folder: Path, package: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the program as if a package were not installed."""
    return subprocess.run(
        [sys.executable, "-c", BLOCKED.format(package=package, words=words)],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("package", ["guidsvc_client", "httpx2", "tenacity", "platformdirs"])
def test_missing_package_is_answered_with_the_extra(tmp_path: Path, package: str) -> None:
    done = run(tmp_path, package, "guidsvc", "ls")

    assert done.returncode == 1
    missing = f"guidsvc ls: the package {package} is not installed; in the checkout of guidsvc, run: "
    assert done.stderr == f"{missing}{sys.executable} -m pip install ./guidsvc_client '.[cli]'\n"


def test_checkout_without_the_packages_names_its_requirements(tmp_path: Path) -> None:
    done = run(tmp_path, "httpx2", "pdapt.py", "export", "-")

    missing = "pdapt.py export: the package httpx2 is not installed; in the checkout of guidsvc, run: "
    assert done.stderr == f"{missing}{sys.executable} -m pip install -r requirements.txt\n"


@pytest.mark.parametrize("package", ["guidsvc_client", "platformdirs"])
def test_keys_over_http_name_the_extra(tmp_path: Path, package: str) -> None:
    done = run(tmp_path, package, "guidsvc", "keys", "list", "--url", "http://127.0.0.1:1")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"guidsvc keys: the package {package} is not installed; in the checkout of guidsvc,")
    assert done.stderr.endswith("-m pip install ./guidsvc_client '.[cli]'\n")


def test_other_commands_need_no_extra(tmp_path: Path) -> None:
    assert run(tmp_path, "guidsvc_client", "guidsvc", "keys", "--help").returncode == 0
    assert run(tmp_path, "guidsvc_client", "guidsvc", "--help").returncode == 0
