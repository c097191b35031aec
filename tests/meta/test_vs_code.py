"""The files for VS Code name existing commands and files."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from guidsvc.bootstrap.banner import banner
from guidsvc.bootstrap.preflight import UNKNOWN
from guidsvc.config import load
from tests.support.backing_servers import ROOT


def vscode(name: str) -> Any:
    """Return one of the files for VS Code."""
    return json.loads((ROOT / ".vscode" / name).read_text())


def test_vs_code_tasks_build_and_test() -> None:
    tasks = {task["label"]: task for task in vscode("tasks.json")["tasks"]}

    assert tasks["guidsvc: run"]["group"] == {"kind": "build", "isDefault": True}
    assert tasks["guidsvc: test"]["group"] == {"kind": "test", "isDefault": True}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for task in tasks.values():
        program, *arguments = task["command"].split()
        assert program != "make" or arguments[0] in targets
    assert {
        "guidsvc: install",
        "guidsvc: install to run",
        "guidsvc: run",
        "guidsvc: test",
        "guidsvc: coverage",
        "guidsvc: lint",
        "guidsvc: compose up",
    } == set(tasks)


def test_other_vs_code_files_are_json() -> None:
    launch = vscode("launch.json")["configurations"]
    assert launch[0]["program"].endswith("pdapt.py")
    assert {configuration["preLaunchTask"] for configuration in launch} <= {
        task["label"] for task in vscode("tasks.json")["tasks"]
    }
    assert vscode("settings.json")["python.testing.pytestEnabled"] is True
    assert "ms-python.python" in vscode("extensions.json")["recommendations"]


def test_devcontainer_installs_and_forwards_the_port() -> None:
    devcontainer = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    program, target = devcontainer["postCreateCommand"].split()

    assert program == "make"
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert devcontainer["forwardPorts"] == [load([]).port]
    assert re.fullmatch(r"\S+/python:3\.1[1-9]", devcontainer["image"])


class Matcher:
    """Matches output like the problem matcher of a background task in VS Code's problemMatcher.ts."""

    def __init__(self, matcher: dict[str, Any]) -> None:
        self.problems: list[tuple[str, str]] = []
        self._pattern, self._background = matcher["pattern"], matcher["background"]
        self.is_active = self._background["activeOnStart"]

    def read(self, line: str) -> None:
        """Match a line. One that begins or ends an activity is not searched for problems; a problem needs a place."""
        if re.search(self._background["beginsPattern"], line):
            self.is_active, self.problems = True, []
        elif re.search(self._background["endsPattern"], line):
            self.is_active = False
        elif match := re.search(self._pattern["regexp"], line):
            has_place = self._pattern.get("kind") == "file" or {"line", "location"} & self._pattern.keys()
            if has_place and "file" in self._pattern:
                self.problems.append((match[self._pattern["file"]], match[self._pattern["message"]]))


def make_run(folder: Path, arguments: str) -> list[str]:
    """Return the lines of `make run` with an up-to-date virtual environment that runs the Python of the tests."""
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    for name in ("venv.done", "run.done"):
        (folder / name).touch()
    command = ["make", "run", f"VENV={folder}", f"ARGS={arguments}"]
    environment = {
        name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    }
    process = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    return process.stdout.splitlines()


def test_run_task_reports_a_failed_start(tmp_path: Path) -> None:
    (run,) = (task for task in vscode("tasks.json")["tasks"] if task["label"] == "guidsvc: run")
    matcher = Matcher(run["problemMatcher"])
    for line in make_run(tmp_path, f"--store-url sqlite:///{tmp_path}/g.db --quota many"):
        matcher.read(line)

    assert [file for file, _ in matcher.problems] == ["pdapt.py"]
    assert matcher.problems[0][1].startswith("--quota: ")
    assert (ROOT / "pdapt.py").is_file()
    assert not matcher.is_active
    assert run["problemMatcher"]["fileLocation"] == ["relative", "${workspaceFolder}"]


def test_run_task_ends_its_start_with_the_banner() -> None:
    (run,) = (task for task in vscode("tasks.json")["tasks"] if task["label"] == "guidsvc: run")
    matcher = Matcher(run["problemMatcher"])
    matcher.read(".venv/bin/python pdapt.py")
    assert matcher.is_active
    matcher.read(banner(load([]), 8888, UNKNOWN).splitlines()[0])
    assert (matcher.is_active, matcher.problems) == (False, [])


def test_debugging_installs_only_what_running_needs() -> None:
    tasks = {task["label"]: task["command"] for task in vscode("tasks.json")["tasks"]}
    launch = {
        configuration["name"]: tasks[configuration["preLaunchTask"]]
        for configuration in vscode("launch.json")["configurations"]
    }
    assert launch == {"guidsvc": "make install-run", "guidsvc: this test file": "make install"}

    planned = subprocess.run(
        ["make", "--dry-run", "install-run", "VENV=/nowhere"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert re.findall(r"-r (\S+)", planned.stdout) == ["requirements.txt"]
