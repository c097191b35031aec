"""The distribution of the client installs without the service, and needs only its declared dependencies."""

import json
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import guidsvc
import guidsvc_client
from tests.support.backing_servers import ROOT
from tests.support.virtual_environment import pip_for

CLIENT = ROOT / "guidsvc_client"
SECONDS = 180
NEEDED = {
    "anyio",
    "h11",
    "httpcore2",
    "httpx2",
    "idna",
    "tenacity",
    "truststore",
    "typing-extensions",
}
"""Packages that `pip list` shows in addition to the client."""
PROJECT = tomllib.loads((CLIENT / "pyproject.toml").read_text())["project"]


def run(folder: Path, *command: str) -> str:
    """Run a command in a folder; return its output."""
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def dependencies(requirements: list[str], by_name: dict[str, Distribution] | None = None) -> dict[str, Distribution]:
    """Return the direct and indirect dependencies of requirements on this platform, by name."""
    by_name = {} if by_name is None else by_name
    for requirement in map(Requirement, requirements):
        name = str(canonicalize_name(requirement.name))
        is_needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if is_needed and name not in by_name:
            by_name[name] = distribution(name)
            dependencies(by_name[name].requires or [], by_name)
    return by_name


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution."""
    folder = tmp_path_factory.mktemp("client")
    run(CLIENT, sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(folder))
    (archive,) = folder.glob("*.tar.gz")
    run(folder, "tar", "xzf", archive.name)
    source = folder / archive.name.removesuffix(".tar.gz")
    run(source, sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def python(wheel: Path) -> Path:
    """The Python of an environment with the wheel and its dependencies, as pip would install them from an index."""
    folder = wheel.parent / "venv"
    venv.create(folder)
    python = folder / "bin" / "python"
    site = Path(run(folder, str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    site_packages = Path(sysconfig.get_path("purelib"))
    for dependency in dependencies(PROJECT["dependencies"]).values():
        for file in dependency.files or ():
            source = Path(str(dependency.locate_file(file))).resolve()
            if source.is_relative_to(site_packages.resolve()):
                target = site / source.relative_to(site_packages.resolve())
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read_bytes())
    run(folder, *pip_for(python), "install", "--quiet", "--no-index", str(wheel))
    return python


def test_wheel_holds_the_modules_and_the_marker_of_types(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}

    modules = {path.relative_to(ROOT).as_posix() for path in CLIENT.rglob("*.py")}
    assert names == modules | {"guidsvc_client/py.typed"}


@pytest.mark.timeout(2 * SECONDS)
def test_client_installs_alone_with_what_it_needs(python: Path) -> None:
    packages = json.loads(run(python.parent, *pip_for(python), "list", "--format", "json"))

    names = {package["name"] for package in packages}
    assert {str(canonicalize_name(name)) for name in names} == NEEDED | {"guidsvc-client"}
    assert "No broken requirements" in run(python.parent, *pip_for(python), "check")


@pytest.mark.timeout(2 * SECONDS)
def test_installed_client_imports_without_the_service(python: Path) -> None:
    program = "import sys, guidsvc_client as g; print(g.__file__, g.Client, 'guidsvc' in sys.modules, g.__version__)"
    printed = run(python.parent, str(python), "-I", "-W", "error", "-c", program)

    assert str(python.parents[1]) in printed
    assert printed.endswith(f"<class 'guidsvc_client.sync.client.Client'> False {guidsvc_client.__version__}\n")


def test_client_has_the_version_of_the_service() -> None:
    assert guidsvc_client.__version__ == guidsvc.__version__


def test_extra_of_the_service_asks_for_this_version() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    assert f"guidsvc-client=={guidsvc.__version__}" in extras["cli"]


def test_dependencies_are_pinned_within_their_range() -> None:
    pins = {str(canonicalize_name(need.name)): need for need in map(Requirement, pinned_lines())}
    needs = list(map(Requirement, PROJECT["dependencies"]))

    assert [need.name for need in needs] == ["httpx2", "tenacity"]
    for need in needs:
        (pin,) = pins[need.name].specifier
        assert need.specifier.contains(pin.version)


def pinned_lines() -> Iterator[str]:
    """Yield the requirements in requirements.in."""
    for line in (ROOT / "requirements.in").read_text().splitlines():
        if "==" in line:
            yield line.partition("#")[0].strip()
