"""Each setting has an effect: the composition root reads it."""

import ast
from collections.abc import Iterator
from pathlib import Path

from guidsvc.config import Settings
from tests.support.backing_servers import ROOT

CHECKS = "validation.py"
"""A module that only checks the settings, which gives them no effect."""


def read_settings(path: Path) -> Iterator[str]:
    """Yield the attributes of `settings` that a module reads."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "settings":
            yield node.attr


def test_each_setting_is_read_by_the_composition_root() -> None:
    paths = [path for path in (ROOT / "guidsvc" / "bootstrap").rglob("*.py") if path.name != CHECKS]
    read = {name for path in paths for name in read_settings(path)}

    assert sorted(Settings.model_fields.keys() - read) == []
