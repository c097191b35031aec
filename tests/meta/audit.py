"""Is anything known against what requirements*.txt pin? `make audit`, and with it `make lint`, asks.

pip-audit asks a service on the internet. One that cannot be reached, or a mirror of PyPI that tells no vulnerabilities,
must not pass for good news: a service is asked first about a release that all the world knows to be vulnerable, and is
believed only if it knows that too. Where none does, that is said, and is no failure.
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
"""Who can be asked, and the options by which pip-audit does."""

KNOWN = "jinja2==3.1.2"  # CVE-2024-22195, and others since


@dataclass(frozen=True)
class Audit:
    """What was found: `asked` is the service that answered, or nothing where none did."""

    asked: str | None
    found: tuple[str, ...] = ()
    not_told: tuple[str, ...] = ()
    """Packages that the service does not know at all."""


def audit(files: Sequence[Path], services: Mapping[str, Sequence[str]] = SERVICES) -> Audit:
    """Ask the first service that can tell about all that these files pin for this Python."""
    for name, options in services.items():
        if _can_tell(options) and (told := _ask(options, files)) is not None:
            return Audit(name, tuple(_found(told)), tuple(one["name"] for one in told if "skip_reason" in one))
    return Audit(None)


def _can_tell(options: Sequence[str]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text(KNOWN)
        return bool(_found(_ask((*options, "--no-deps"), [file]) or []))


def _ask(options: Sequence[str], files: Sequence[Path]) -> list[dict[str, Any]] | None:
    """Return what is told about each package, or nothing if there was no answer."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--disable-pip"]
    command += [*options, *(word for file in files for word in ("--requirement", str(file)))]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    try:
        told: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        print(*done.stderr.splitlines()[-1:], file=sys.stderr)  # why there is no answer
        return None
    return told


def _found(told: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"{one['name']} {one['version']}: {what['id']}, mended in {', '.join(what['fix_versions']) or 'no release yet'}"
        for one in told
        for what in one.get("vulns", ())
    ]


def report(audited: Audit) -> int:
    """Print what was found; return the exit code, 1 if there was something."""
    if audited.asked is None:
        print("Not run: the audit for known vulnerabilities. No service that tells them could be reached.")
        return 0
    for line in audited.found:
        print(line)
    if audited.not_told:
        print(f"Not audited, since {audited.asked} does not know them: {', '.join(audited.not_told)}")
    print(f"{audited.asked} knows of {len(audited.found) or 'no'} vulnerabilities in what is pinned.")
    return 1 if audited.found else 0


if __name__ == "__main__":
    sys.exit(report(audit([path(name, ".txt") for name in (DEV, *OTHERS)])))
