"""The wheel contains everything that the service needs, and starts without the checkout."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import guidsvc
from tests.support.backing_servers import ROOT, START_SECONDS, wait_until
from tests.support.installed_wheel import (
    INSTALL_SECONDS,
    add_wheel,
    build_wheel,
    empty_environment,
    install_wheel,
    run,
)
from tests.support.shared_folder import shared_folder
from tests.support.virtual_environment import pip_for


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheels of the service, `guidsvc-*`, and of its client, `guidsvc_client-*`."""

    def build(folder: Path) -> None:
        for source in (ROOT / "guidsvc_client", ROOT):
            wheel = build_wheel(source, folder / "built" / source.name)
            wheel.rename(folder / wheel.name)

    return shared_folder(tmp_path_factory, "wheels", build)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Path:
    """The commands of a virtual environment with the wheel, which uses the dependencies of the test environment."""
    (wheel,) = wheels.glob("guidsvc-*.whl")
    return install_wheel(wheel, tmp_path_factory.mktemp("wheel") / "venv")


@pytest.fixture
def started(installed: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The output of a service that a command has started."""
    command = [str(installed / request.param[0]), *request.param[1:], "--port", "0"]
    output = tmp_path / "output"
    with output.open("wb") as out, subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=out) as process:
        try:
            yield output
        finally:
            process.terminate()
    assert process.returncode == 0, output.read_text()


STARTS = [("guidsvc", "serve"), ("guidsvc",), ("python", "-m", "guidsvc", "serve")]


@pytest.mark.timeout(2 * INSTALL_SECONDS)
@pytest.mark.parametrize("started", STARTS, indirect=True, ids=" ".join)
def test_wheel_serves(started: Path) -> None:
    wait_until(lambda: f"guidsvc {guidsvc.__version__}" in started.read_text(), "the banner", started, START_SECONDS)


LISTING = """
import pathlib, guidsvc
root = pathlib.Path(guidsvc.__file__).parent
print(root)
for path in root.rglob("*"):
    if path.is_file() and path.suffix not in {".py", ".pyc"}:
        print(path.relative_to(root))
"""


@pytest.mark.timeout(2 * INSTALL_SECONDS)
def test_wheel_has_the_files_that_are_not_python(installed: Path, tmp_path: Path) -> None:
    root, *names = run(tmp_path, str(installed / "python"), "-c", LISTING).splitlines()
    package = ROOT / "guidsvc"
    data_files = [path for path in package.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}]
    assert not Path(root).is_relative_to(ROOT)
    assert sorted(names) == sorted(str(path.relative_to(package)) for path in data_files)


@pytest.mark.timeout(2 * INSTALL_SECONDS)
def test_commands_over_http_need_the_wheel_of_the_client(installed: Path, wheels: Path, tmp_path: Path) -> None:
    def list_records() -> subprocess.CompletedProcess[str]:
        command = [str(installed / "guidsvc"), "ls", "--quiet", "--url", "http://127.0.0.1:1"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)

    missing = "guidsvc ls: the package guidsvc_client is not installed; in the checkout of guidsvc, run: "
    assert list_records().stderr == f"{missing}{installed}/python -m pip install ./guidsvc_client '.[cli]'\n"
    (wheel,) = wheels.glob("guidsvc_client-*.whl")
    add_wheel(wheel, installed)
    assert list_records().returncode == 6


GUIDE = (ROOT / "docs" / "deployment.md").read_text()
INSTALLS = re.findall(r"^\S+/bin/pip install (.*\.whl.*)$", GUIDE, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(4 * INSTALL_SECONDS)
@pytest.mark.parametrize("arguments", INSTALLS, ids=["package", "systemd"])
def test_wheels_install_as_the_guide_says(tmp_path: Path, wheels: Path, arguments: str) -> None:
    """Install both wheels without an index, because no index has these packages."""
    (tmp_path / "dist").symlink_to(wheels)
    commands = empty_environment(tmp_path / "venv")
    pip = shlex.join([*pip_for(commands / "python"), "install", "--quiet", "--no-compile", "--no-index"])
    run(tmp_path, "bash", "-c", f"{pip} {arguments}")

    process = subprocess.run(
        [commands / "guidsvc", "ls", "--quiet", "--url", "http://127.0.0.1:1"], cwd=tmp_path, timeout=300, check=False
    )
    assert process.returncode == 6, "no connection"


@pytest.mark.timeout(2 * INSTALL_SECONDS)
def test_wheel_command_names_itself(installed: Path, tmp_path: Path) -> None:
    assert run(tmp_path, str(installed / "guidsvc"), "--help").startswith("usage: guidsvc ")
