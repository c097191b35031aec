"""The bill of materials is CycloneDX, holds all that runs the service, and every licence in it is permissive."""

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
def made() -> sbom.Bom:
    """Make the bill once."""
    return sbom.make()


def component(bom: sbom.Bom, name: str) -> dict[str, Any]:
    """Return the component of that name."""
    found: dict[str, Any] = next(one for one in bom["components"] if one["name"] == name)
    return found


def test_sbom_lists_runtime_packages_without_test_packages(made: sbom.Bom) -> None:
    packages = {one["purl"].partition("@")[0].removeprefix("pkg:pypi/") for one in made["components"]}

    assert packages == {pin.name for pin in pinned(RUN) if pin.is_for_here} | {"pkg:npm/swagger-ui-dist"}
    assert "pytest" in {pin.name for pin in pinned(DEV)} - packages


def test_sbom_names_its_subject_and_release(made: sbom.Bom) -> None:
    told = made["metadata"]["component"]

    assert (told["name"], told["version"]) == ("guidsvc", guidsvc.__version__)


def test_sbom_has_dependencies_between_listed_packages(made: sbom.Bom) -> None:
    wants = {one["ref"]: set(one["dependsOn"]) for one in made["dependencies"]}
    refs = {one["bom-ref"] for one in made["components"]}

    assert wants.keys() == refs | {"root-component"}
    assert set().union(*wants.values()) <= refs
    assert wants["root-component"] >= {component(made, name)["bom-ref"] for name in ("tornado", "swagger-ui-dist")}
    assert component(made, "pymongo")["bom-ref"] in wants[component(made, "motor")["bom-ref"]]


@pytest.mark.parametrize(
    ("licence", "named"),
    [
        ({"license": {"id": "GPL-3.0-only"}}, "GPL-3.0-only"),
        ({"expression": "MIT OR (Apache-2.0 AND LGPL-2.1-or-later)"}, "LGPL-2.1-or-later"),
        ({"license": {"name": "our own"}}, "our own"),
    ],
)
def test_restrictive_licence_is_reported(licence: dict[str, Any], named: str) -> None:
    assert sbom.licence_faults({"name": "tornado", "licenses": [licence]}) == [f"tornado is under {named}"]


def test_permissive_licence_is_known_by_any_of_its_names() -> None:
    apache = {"license": {"name": "License :: OSI Approved :: Apache Software License"}}

    assert sbom.licence_faults({"name": "motor", "licenses": [apache, {"expression": "MIT AND (ISC OR MIT)"}]}) == []


def test_all_faults_are_reported_together(made: sbom.Bom) -> None:
    other = deepcopy(made) | {"colour": "blue"}
    other["components"].remove(component(other, "structlog"))
    del component(other, "tornado")["licenses"]
    form, *more = sbom.faults(other)

    assert "colour" in form
    assert more == ["structlog is left out", "tornado is under no licence that it names"]


def test_sbom_is_written_as_json_without_faults(tmp_path: Path, made: sbom.Bom) -> None:
    assert sbom.main(str(tmp_path / "sbom.json")) == 0
    assert json.loads((tmp_path / "sbom.json").read_text()) == made


def test_licences_are_documented() -> None:
    section = (ROOT / "docs" / "security.md").read_text().partition("## Supply chain\n")[2].partition("\n## ")[0]
    told = re.search(r"one of these licences: ([^.]*(?:\.\d[^.]*)*)\.", section)

    assert told
    assert set(re.split(r",\s+", told[1])) == sbom.PERMISSIVE
