"""The bill of materials: what runs the service, under which licences, as CycloneDX. `make sbom` writes it.

cyclonedx-py tells what is installed beside this Python; of that, what requirements.txt pins runs the service. Swagger
UI, which stands among our files, is added to it.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import guidsvc
from tests.meta.requirements import RUN, asked, pinned
from tests.support.backing_servers import ROOT

Bom = dict[str, Any]
Component = Mapping[str, Any]

PERMISSIVE = frozenset({"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "PSF-2.0"})
"""Under these what runs the service may be passed on, changed or not, for a notice. docs/security.md lists them."""

_ALSO = {"License :: OSI Approved :: Apache Software License": "Apache-2.0"}
_ROOT = "root-component"
_VENDORED = ROOT / "guidsvc" / "api" / "docs" / "static" / "swagger-ui" / "README.md"


def make() -> Bom:
    """Return the bill of materials of the service on this Python. It is the same for the same releases."""
    bom = _installed()
    pins = {f"pkg:pypi/{pin.name}@{next(iter(pin.need.specifier)).version}" for pin in pinned(RUN)}
    bom["components"] = [*(one for one in bom["components"] if one.get("purl") in pins), _swagger_ui()]
    bom["metadata"]["component"]["version"] = guidsvc.__version__
    bom["dependencies"] = list(_edges(bom))
    return bom


def _installed() -> Bom:
    command = [sys.executable, "-W", "ignore", "-m", "cyclonedx_py", "environment", "--output-reproducible"]
    command += ["--no-validate", "--pyproject", "pyproject.toml", sys.executable]  # what is made of it is validated
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    bom: Bom = json.loads(done.stdout)
    return bom


def _swagger_ui() -> Component:
    version = re.findall(r"Swagger UI ([0-9.]+[0-9])", _VENDORED.read_text())[0]
    purl = f"pkg:npm/swagger-ui-dist@{version}"
    named = {"type": "library", "bom-ref": purl, "name": "swagger-ui-dist", "version": version, "purl": purl}
    return named | {"licenses": [{"license": {"id": "Apache-2.0"}}]}


def _edges(bom: Bom) -> Iterator[dict[str, Any]]:
    """Yield what needs what, of what is kept: beside what tests the service more is installed than it needs."""
    kept = {one["bom-ref"]: _package(one) for one in bom["components"]}
    wants = {one["ref"]: one.get("dependsOn", ()) for one in bom["dependencies"]}
    wants[_ROOT] = [ref for ref, package in kept.items() if package in {*asked(RUN), "swagger-ui-dist"}]
    for ref in (*kept, _ROOT):
        yield {"ref": ref, "dependsOn": sorted(kept.keys() & set(wants.get(ref, ())))}


def _package(component: Component) -> str:
    return str(component["purl"]).partition("@")[0].rpartition("/")[2]


def licences(component: Component) -> Iterator[str]:
    """Yield the SPDX identifiers of all licences that a component names; of a choice, each."""
    for one in component.get("licenses", ()):
        named = one.get("expression") or one["license"].get("id") or one["license"]["name"]
        yield from re.split(" AND | OR ", _ALSO.get(named, re.sub("[()]", "", named)))


def licence_faults(component: Component) -> list[str]:
    """Return those licences of a component that are not permissive, or that it names none, as lines."""
    found = set(licences(component))
    wrong = sorted(found - PERMISSIVE) if found else ["no licence that it names"]
    return [f"{component['name']} is under {what}" for what in wrong]


def faults(bom: Bom) -> list[str]:
    """Return what is wrong with a bill of materials: its form, what it leaves out, and its licences, as lines."""
    from cyclonedx.schema import SchemaVersion  # these take two seconds of CPU to import
    from cyclonedx.validation.json import JsonStrictValidator

    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bom))
    there = {_package(one) for one in bom["components"]}
    return [
        *([str(wrong)] if wrong else []),
        *(f"{pin.name} is left out" for pin in pinned(RUN) if pin.is_for_here and pin.name not in there),
        *(fault for one in bom["components"] for fault in licence_faults(one)),
    ]


def main(file: str) -> int:
    """Write the bill of materials to a file. Return 1, with what is wrong with it, if something is."""
    bom = make()
    Path(file).write_text(json.dumps(bom, indent=2) + "\n")
    wrong = faults(bom)
    print(*wrong, sep="\n", end="\n" if wrong else "")
    print(f"{file}: {len(bom['components'])} components")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
