"""The doctor on a set-up: its findings by the names of its checks."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.support.backing_servers import free_port, pdapt


class Told(NamedTuple):
    """What the doctor found."""

    code: int
    findings: Mapping[str, list[tuple[str, str, str]]]
    """The state, what was found, and what to do, for each check that has found anything."""

    def worst(self, name: str) -> str:
        """Return the state of a check."""
        states = {state for state, _, _ in self.findings[name]}
        return next(state for state in ("fail", "warn", "ok") if state in states)

    def text(self, name: str) -> str:
        """Return what a check found that is not well, and what to do, on one line each."""
        return "\n".join(f"{found} -> {remedy}" for state, found, remedy in self.findings[name] if state != "ok")


def doctor(folder: Path, *words: str, **environment: str) -> Told:
    """Run the doctor in a folder, for a service that is not there."""
    port = () if "--port" in words or "GUIDSVC_PORT" in environment else ("--port", str(free_port()))
    return told(pdapt(folder, "doctor", "--json", *port, *words, **environment))


def told(done: subprocess.CompletedProcess[str]) -> Told:
    """Return what a doctor that has ended found."""
    assert done.stdout, done.stderr
    document = json.loads(done.stdout)
    findings: dict[str, list[tuple[str, str, str]]] = {}
    for group in document["groups"]:
        for check in group["checks"]:
            findings.setdefault(check["name"], []).append((check["status"], check["found"], check["remedy"]))
    return Told(done.returncode, findings)
