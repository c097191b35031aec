"""The bill of materials is valid CycloneDX, lists all packages of the service, and every licence is permissive."""

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

import guidsvc
from tests.meta import sbom
from tests.meta.requirements import DEV, RUN, pinned
from tests.support.backing_servers import ROOT


@pytest.fixture(scope="session")
def bom() -> sbom.Bom:
    """The bill of materials, created once."""
    return sbom.make()


def component(bom: sbom.Bom, name: str) -> dict[str, Any]:
    """Return the component with this name."""
    match: dict[str, Any] = next(candidate for candidate in bom["components"] if candidate["name"] == name)
    return match


def test_sbom_lists_runtime_packages_without_test_packages(bom: sbom.Bom) -> None:
    packages = {item["purl"].partition("@")[0].removeprefix("pkg:pypi/") for item in bom["components"]}

    assert packages == {pin.name for pin in pinned(RUN) if pin.is_for_this_platform} | {"pkg:npm/swagger-ui-dist"}
    assert "pytest" in {pin.name for pin in pinned(DEV)} - packages


def test_sbom_names_its_subject_and_release(bom: sbom.Bom) -> None:
    subject = bom["metadata"]["component"]

    assert (subject["name"], subject["version"]) == ("guidsvc", guidsvc.__version__)


def test_sbom_has_dependencies_between_listed_packages(bom: sbom.Bom) -> None:
    dependencies = {item["ref"]: set(item["dependsOn"]) for item in bom["dependencies"]}
    refs = {item["bom-ref"] for item in bom["components"]}

    assert dependencies.keys() == refs | {"root-component"}
    assert set().union(*dependencies.values()) <= refs
    assert dependencies["root-component"] >= {
        component(bom, name)["bom-ref"] for name in ("tornado", "swagger-ui-dist")
    }
    assert component(bom, "pymongo")["bom-ref"] in dependencies[component(bom, "motor")["bom-ref"]]


@pytest.mark.parametrize(
    ("licence", "identifier"),
    [
        ({"license": {"id": "GPL-3.0-only"}}, "GPL-3.0-only"),
        ({"expression": "MIT OR (Apache-2.0 AND LGPL-2.1-or-later)"}, "LGPL-2.1-or-later"),
        ({"license": {"name": "our own"}}, "our own"),
    ],
)
def test_restrictive_licence_is_reported(licence: dict[str, Any], identifier: str) -> None:
    assert sbom.licence_faults({"name": "tornado", "licenses": [licence]}) == [f"tornado is under {identifier}"]


def test_permissive_licence_is_known_by_any_of_its_names() -> None:
    apache = {"license": {"name": "License :: OSI Approved :: Apache Software License"}}

    assert sbom.licence_faults({"name": "motor", "licenses": [apache, {"expression": "MIT AND (ISC OR MIT)"}]}) == []


def test_all_faults_are_reported_together(bom: sbom.Bom) -> None:
    faulty = deepcopy(bom) | {"colour": "blue"}
    faulty["components"].remove(component(faulty, "structlog"))
    del component(faulty, "tornado")["licenses"]
    schema_error, *other_faults = sbom.faults(faulty)

    assert "colour" in schema_error
    assert other_faults == ["structlog is left out", "tornado is under no licence that it names"]


@pytest.mark.slow
def test_sbom_is_written_as_json_without_faults(tmp_path: Path, bom: sbom.Bom) -> None:
    assert sbom.main(str(tmp_path / "sbom.json")) == 0
    assert json.loads((tmp_path / "sbom.json").read_text()) == bom


def test_licences_are_documented() -> None:
    section = (ROOT / "docs" / "security.md").read_text().partition("## Supply chain\n")[2].partition("\n## ")[0]
    match = re.search(r"one of these licences: ([^.]*(?:\.\d[^.]*)*)\.", section)

    assert match
    assert set(re.split(r",\s+", match[1])) == sbom.PERMISSIVE
