"""The size of packages and modules: what a reader can take in at once."""

from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "guidsvc"
MAX_MODULES, MAX_LINES = 10, 340
MODULES = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]


def test_package_has_at_most_ten_modules() -> None:
    counts = Counter(path.parent.relative_to(PACKAGE).as_posix() for path in MODULES)

    assert {folder: count for folder, count in counts.items() if count > MAX_MODULES} == {}


def test_module_has_a_bounded_length() -> None:
    lengths = {path.relative_to(PACKAGE).as_posix(): len(path.read_text().splitlines()) for path in MODULES}

    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}
