"""Packages and modules are small enough to be read at once."""

from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "guidsvc", ROOT / "guidsvc_client")
MAX_MODULES, MAX_LINES = 10, 340
FOLDERS = "bench", "deploy", "docs", "guidsvc", "guidsvc_client", "tests"
TEXTS = {".md", ".py", ".toml", ".yml", ".yaml", ".json", ".lua", ".in", ".txt"}
MODULES = [path for package in PACKAGES for path in package.rglob("*.py") if path.name != "__init__.py"]


def test_package_has_at_most_ten_modules() -> None:
    counts = Counter(path.parent.relative_to(ROOT).as_posix() for path in MODULES)

    assert {folder: count for folder, count in counts.items() if count > MAX_MODULES} == {}


def test_module_has_a_bounded_length() -> None:
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in MODULES}

    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_no_file_has_the_marks_of_a_merge_conflict() -> None:
    texts = [*ROOT.glob("*.*"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    marks = tuple(f"{mark * 7}\n" for mark in "=") + tuple(f"{mark * 7} " for mark in "<>")

    assert [
        path.relative_to(ROOT).as_posix()
        for path in texts
        if path.suffix in TEXTS and any(line.startswith(marks) for line in path.read_text().splitlines(keepends=True))
    ] == []
