"""Rules for the test modules themselves."""

import re
from pathlib import Path

import pytest

from tests.support.backing_servers import ROOT

MODULES = sorted((ROOT / "tests").rglob("*.py"))
MAX_NAME_LENGTH = 60
_IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+[\w.]+[ \t]+)?import[ \t]+(?:\([^)]*\)|[^\n]*)", re.MULTILINE)
_TEST_MODULE = re.compile(r"\btest_\w+")
"""A test module, or what is defined in one, in an import."""
_TEST = re.compile(r"^[ \t]*(?:async )?def (test_\w+)", re.MULTILINE)


@pytest.fixture(scope="session")
def texts() -> dict[Path, str]:
    """The text of each module. The syntax trees would take two seconds."""
    return {path.relative_to(ROOT): path.read_text() for path in MODULES}


def test_no_module_imports_a_test_module(texts: dict[Path, str]) -> None:
    """Shared code belongs in tests/support."""
    faults = [
        f"{path}: {statement}"
        for path, text in texts.items()
        for statement in _IMPORT.findall(text)
        if _TEST_MODULE.search(statement)
    ]

    assert faults == []


def test_names_of_tests_have_at_most_60_characters(texts: dict[Path, str]) -> None:
    faults = [
        f"{path}::{name}" for path, text in texts.items() for name in _TEST.findall(text) if len(name) > MAX_NAME_LENGTH
    ]

    assert faults == []
