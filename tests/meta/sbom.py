"""The bill of materials (SBOM) of the service, with licences, as CycloneDX. `make sbom` writes it.

cyclonedx-py lists the packages that are installed for this Python; those that requirements.txt pins belong to the
service. Swagger UI, which is vendored, is added.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import guidsvc
from tests.meta.requirements import RUN, pinned, requested
from tests.support.backing_servers import ROOT

Bom = dict[str, Any]
Component = Mapping[str, Any]

PERMISSIVE = frozenset({"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "PSF-2.0"})
"""Licences that permit redistribution, changed or not, with a notice. docs/security.md lists them."""

_ALSO = {"License :: OSI Approved :: Apache Software License": "Apache-2.0"}
_ROOT = "root-component"
_VENDORED = ROOT / "guidsvc" / "api" / "docs" / "static" / "swagger-ui" / "README.md"


def make() -> Bom:
    """Return the bill of materials of the service on this Python; equal releases give equal bills."""
    bom = _installed()
    pins = {f"pkg:pypi/{pin.name}@{next(iter(pin.need.specifier)).version}" for pin in pinned(RUN)}
    bom["components"] = [
        *(component for component in bom["components"] if component.get("purl") in pins),
        _swagger_ui(),
    ]
    bom["metadata"]["component"]["version"] = guidsvc.__version__
    bom["dependencies"] = list(_edges(bom))
    return bom


def _installed() -> Bom:
    command = [sys.executable, "-W", "ignore", "-m", "cyclonedx_py", "environment", "--output-reproducible"]
    command += ["--no-validate", "--pyproject", "pyproject.toml", sys.executable]  # the finished bill is validated
    process = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(process.stderr)
    bom: Bom = json.loads(process.stdout)
    return bom


def _swagger_ui() -> Component:
    version = re.findall(r"Swagger UI ([0-9.]+[0-9])", _VENDORED.read_text())[0]
    purl = f"pkg:npm/swagger-ui-dist@{version}"
    component = {"type": "library", "bom-ref": purl, "name": "swagger-ui-dist", "version": version, "purl": purl}
    return component | {"licenses": [{"license": {"id": "Apache-2.0"}}]}


def _edges(bom: Bom) -> Iterator[dict[str, Any]]:
    """Yield the dependencies between the listed components; the test environment contains more packages."""
    packages = {item["bom-ref"]: _package(item) for item in bom["components"]}
    dependencies = {item["ref"]: item.get("dependsOn", ()) for item in bom["dependencies"]}
    dependencies[_ROOT] = [ref for ref, package in packages.items() if package in {*requested(RUN), "swagger-ui-dist"}]
    for ref in (*packages, _ROOT):
        yield {"ref": ref, "dependsOn": sorted(packages.keys() & set(dependencies.get(ref, ())))}


def _package(component: Component) -> str:
    return str(component["purl"]).partition("@")[0].rpartition("/")[2]


def licences(component: Component) -> Iterator[str]:
    """Yield the SPDX identifiers of all licences of a component, including each alternative of a choice."""
    for licence in component.get("licenses", ()):
        name = licence.get("expression") or licence["license"].get("id") or licence["license"]["name"]
        yield from re.split(" AND | OR ", _ALSO.get(name, re.sub("[()]", "", name)))


def licence_faults(component: Component) -> list[str]:
    """Return a line for each licence of a component that is not permissive, or one if it names none."""
    named = set(licences(component))
    restrictive = sorted(named - PERMISSIVE) if named else ["no licence that it names"]
    return [f"{component['name']} is under {licence}" for licence in restrictive]


def faults(bom: Bom) -> list[str]:
    """Return the faults of a bill of materials, as lines: schema errors, missing packages, licences."""
    from cyclonedx.schema import SchemaVersion  # these take two seconds of CPU to import
    from cyclonedx.validation.json import JsonStrictValidator

    schema_errors = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bom))
    present = {_package(component) for component in bom["components"]}
    return [
        *([str(schema_errors)] if schema_errors else []),
        *(f"{pin.name} is left out" for pin in pinned(RUN) if pin.is_for_this_platform and pin.name not in present),
        *(fault for component in bom["components"] for fault in licence_faults(component)),
    ]


def main(file: str) -> int:
    """Write the bill of materials to a file, and print its faults; return 1 if there are any."""
    bom = make()
    Path(file).write_text(json.dumps(bom, indent=2) + "\n")
    lines = faults(bom)
    print(*lines, sep="\n", end="\n" if lines else "")
    print(f"{file}: {len(bom['components'])} components")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
