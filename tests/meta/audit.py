"""Check the pins of requirements*.txt for known vulnerabilities: part of `make audit` and `make lint`.

pip-audit queries a service on the internet. A service that cannot be reached, or a mirror of PyPI without data about
vulnerabilities, must not count as a clean result. So each service is first queried for a release that is known to be
vulnerable, and is trusted only if it reports that. If no service does, the audit prints so and does not fail.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.meta.requirements import DEV, OTHERS, path

SERVICES: Mapping[str, Sequence[str]] = {
    "OSV": ("--vulnerability-service", "osv"),
    "PyPI": ("--vulnerability-service", "pypi"),
}
"""Vulnerability services, and the options that make pip-audit use them."""

KNOWN_VULNERABLE_PIN = "jinja2==3.1.2"  # CVE-2024-22195, and others since


@dataclass(frozen=True)
class Audit:
    """The result of an audit: `service` is the one that was used, or None if none was usable."""

    service: str | None
    vulnerabilities: tuple[str, ...] = ()
    unknown_packages: tuple[str, ...] = ()
    """Packages that the service does not know."""


def audit(files: Sequence[Path], services: Mapping[str, Sequence[str]] = SERVICES) -> Audit:
    """Audit the pins of these files for this Python, with the first service that can be trusted."""
    for name, options in services.items():
        if _is_trustworthy(options) and (reports := _run_pip_audit(options, files)) is not None:
            return Audit(
                name,
                tuple(_vulnerabilities(reports)),
                tuple(package["name"] for package in reports if "skip_reason" in package),
            )
    return Audit(None)


def _is_trustworthy(options: Sequence[str]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text(KNOWN_VULNERABLE_PIN)
        return bool(_vulnerabilities(_run_pip_audit((*options, "--no-deps"), [file]) or []))


def _run_pip_audit(options: Sequence[str], files: Sequence[Path]) -> list[dict[str, Any]] | None:
    """Return the report on each package, or None if pip-audit wrote no report."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--disable-pip"]
    command += [*options, *(argument for file in files for argument in ("--requirement", str(file)))]
    process = subprocess.run(command, check=False, capture_output=True, text=True)
    try:
        packages: list[dict[str, Any]] = json.loads(process.stdout)["dependencies"]
    except ValueError:
        print(*process.stderr.splitlines()[-1:], file=sys.stderr)  # why there is no report
        return None
    return packages


def _vulnerabilities(packages: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"{package['name']} {package['version']}: {vuln['id']}, "
        f"fixed in {', '.join(vuln['fix_versions']) or 'no release yet'}"
        for package in packages
        for vuln in package.get("vulns", ())
    ]


def report(audited: Audit) -> int:
    """Print the result of an audit; return the exit code, 1 if there are vulnerabilities."""
    if audited.service is None:
        print("Not run: the audit for known vulnerabilities. No service that knows them could be reached.")
        return 0
    for line in audited.vulnerabilities:
        print(line)
    if audited.unknown_packages:
        print(f"Not audited, since {audited.service} does not know them: {', '.join(audited.unknown_packages)}")
    print(f"{audited.service} knows of {len(audited.vulnerabilities) or 'no'} vulnerabilities in the pinned packages.")
    return 1 if audited.vulnerabilities else 0


if __name__ == "__main__":
    sys.exit(report(audit([path(name, ".txt") for name in (DEV, *OTHERS)])))
