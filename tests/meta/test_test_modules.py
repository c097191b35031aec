"""Rules for the test modules themselves."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.backing_servers import ROOT

MODULES = sorted((ROOT / "tests").rglob("*.py"))
MAX_NAME_LENGTH = 60


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Yield each name that a module imports, from its root package on."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{alias.name}" for alias in node.names)


def is_in_test_module(name: str) -> bool:
    """Whether an imported name is a test module or is defined in one."""
    return any(part.startswith("test_") for part in name.split("."))


@pytest.fixture(scope="session")
def trees() -> dict[Path, ast.Module]:
    """The syntax tree of each module, parsed once."""
    return {path.relative_to(ROOT): ast.parse(path.read_text()) for path in MODULES}


def test_no_module_imports_a_test_module(trees: dict[Path, ast.Module]) -> None:
    """Shared code belongs in tests/support."""
    faults = [
        f"{path} imports {name}"
        for path, tree in trees.items()
        for name in imported_modules(tree)
        if is_in_test_module(name)
    ]

    assert faults == []


def test_names_of_tests_have_at_most_60_characters(trees: dict[Path, ast.Module]) -> None:
    faults = [
        f"{path}::{node.name}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and len(node.name) > MAX_NAME_LENGTH
    ]

    assert faults == []
