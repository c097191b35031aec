"""The files for VS Code name what there is."""

import json
import re
from typing import Any

from tests.support.backing_servers import ROOT


def vscode(name: str) -> Any:
    """Read one of the files for VS Code."""
    return json.loads((ROOT / ".vscode" / name).read_text())


def test_vs_code_tasks_build_and_test() -> None:
    tasks = {task["label"]: task for task in vscode("tasks.json")["tasks"]}

    assert tasks["guidsvc: run"]["group"] == {"kind": "build", "isDefault": True}
    assert tasks["guidsvc: test"]["group"] == {"kind": "test", "isDefault": True}
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for task in tasks.values():
        program, *words = task["command"].split()
        assert program != "make" or words[0] in targets
    assert {
        "guidsvc: install",
        "guidsvc: run",
        "guidsvc: test",
        "guidsvc: coverage",
        "guidsvc: lint",
        "guidsvc: compose up",
    } == set(tasks)


def test_other_vs_code_files_are_json() -> None:
    launch = vscode("launch.json")["configurations"]
    assert launch[0]["program"].endswith("pdapt.py")
    assert {each["preLaunchTask"] for each in launch} <= {task["label"] for task in vscode("tasks.json")["tasks"]}
    assert vscode("settings.json")["python.testing.pytestEnabled"] is True
    assert "ms-python.python" in vscode("extensions.json")["recommendations"]
