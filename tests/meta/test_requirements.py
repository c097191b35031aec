"""All installed packages are pinned with hashes, and the requirements files agree with each other."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.meta.requirements import ALL, DEV, OTHERS, RUN, Pin, path, pinned, requested
from tests.support.backing_servers import ROOT

every_list = pytest.mark.parametrize("name", ALL)


def releases(name: str) -> dict[str, Pin]:
    """Return the pins of a list by name, version and marker as written."""
    return {str(pin.need): pin for pin in pinned(name)}


@every_list
def test_installed_packages_are_pinned_with_hashes(name: str) -> None:
    assert pinned(name)
    for pin in pinned(name):
        assert [version.operator for version in pin.need.specifier] == ["=="], pin.need
        assert "*" not in str(pin.need.specifier), pin.need
        assert pin.hashes, pin.need


@every_list
def test_requirements_file_has_only_pins(name: str) -> None:
    for line in path(name, ".txt").read_text().splitlines():
        assert line.lstrip().startswith(("#", "--hash=")) or "==" in line, line


@every_list
def test_pin_is_unique_for_each_environment(name: str) -> None:
    names = [pin.name for pin in pinned(name) if pin.is_for_this_platform]

    assert sorted(names) == sorted(set(names))


def marker_conditions(need: Requirement) -> set[str]:
    """Return the conditions of a marker, whose order uv may change."""
    return set(str(need.marker).split(" and "))


@every_list
def test_requirement_is_pinned_as_requested(name: str) -> None:
    pins = {pin.name: pin.need for pin in pinned(name)}

    for package, need in requested(name).items():
        assert [version.operator for version in need.specifier] == ["=="], need
        assert package in pins, f"{need}: make requirements"
        assert (pins[package].specifier, pins[package].extras) == (need.specifier, need.extras), "make requirements"
        assert marker_conditions(pins[package]) == marker_conditions(need), "make requirements"


@every_list
def test_pin_that_claims_a_request_is_requested(name: str) -> None:
    claimed = {pin.name for pin in pinned(name) if f"-r {name}.in" in pin.requested_by}

    assert claimed == set(requested(name)), "make requirements"


def test_tests_use_the_runtime_pins() -> None:
    run, dev = releases(RUN), releases(DEV)

    assert {need: dev[need].hashes for need in run} == {need: pin.hashes for need, pin in run.items()}


@pytest.mark.parametrize("name", OTHERS)
def test_additional_requirements_keep_the_base_pins(name: str) -> None:
    base_pins: dict[str, set[SpecifierSet]] = {}
    for pin in pinned(DEV):
        base_pins.setdefault(pin.name, set()).add(pin.need.specifier)

    for pin in pinned(name):
        assert pin.need.specifier in base_pins.get(pin.name, {pin.need.specifier}), pin.need


def test_required_packages_of_the_user_are_requested() -> None:
    assert requested(RUN).keys() >= {"tornado", "redis", "motor", "pydantic"}
    assert requested(DEV).keys() >= {"pytest", "pytest-asyncio"}


def imported(file: Path) -> Iterator[str]:
    """Yield the top-level packages that a module imports anywhere."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def test_service_imports_only_requested_packages() -> None:
    files = [ROOT / "pdapt.py", *(ROOT / "guidsvc").rglob("*.py")]
    third_party = (
        {name for file in files for name in imported(file)} - sys.stdlib_module_names - {"guidsvc", "guidsvc_client"}
    )
    packages = packages_distributions()

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    direct_requirements = {*requested(RUN), *(re.split("[<>=]", each)[0] for each in extras["otel"])}
    assert len(third_party) > 5
    for name in third_party:
        assert direct_requirements & {canonicalize_name(package) for package in packages.get(name, [])}, name
