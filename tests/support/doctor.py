"""Run the doctor on a setup, and return its findings by check."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.support.backing_servers import free_port, pdapt


class DoctorReport(NamedTuple):
    """The result of the doctor."""

    code: int
    findings: Mapping[str, list[tuple[str, str, str]]]
    """State, finding and remedy, by check. Only checks with findings have an entry."""

    def worst(self, name: str) -> str:
        """Return the worst state of a check."""
        states = {state for state, _, _ in self.findings[name]}
        return next(state for state in ("fail", "warn", "ok") if state in states)

    def text(self, name: str) -> str:
        """Return the findings of a check that are not ok, with their remedies, one per line."""
        return "\n".join(f"{found} -> {remedy}" for state, found, remedy in self.findings[name] if state != "ok")


def doctor(folder: Path, *arguments: str, **environment: str) -> DoctorReport:
    """Run the doctor in a folder, for a service that is not running."""
    port = () if "--port" in arguments or "GUIDSVC_PORT" in environment else ("--port", str(free_port()))
    return report_of(pdapt(folder, "doctor", "--json", *port, *arguments, **environment))


def report_of(process: subprocess.CompletedProcess[str]) -> DoctorReport:
    """Return the result of a doctor process that has ended."""
    assert process.stdout, process.stderr
    document = json.loads(process.stdout)
    findings: dict[str, list[tuple[str, str, str]]] = {}
    for group in document["groups"]:
        for check in group["checks"]:
            findings.setdefault(check["name"], []).append((check["status"], check["found"], check["remedy"]))
    return DoctorReport(process.returncode, findings)
