"""Reads what `requirements*.in` ask for, and what `requirements*.txt` pin; asks no registry.

Names are normalised, as PyPI does: `PyYAML` is `pyyaml`.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.backing_servers import ROOT

RUN = "requirements"
DEV = "requirements-dev"  # holds all of RUN
OTHERS = ("requirements-build", "requirements-bench", "requirements-browser", "requirements-docs")  # on top of DEV
ALL = (RUN, DEV, *OTHERS)


@dataclass(frozen=True)
class Pin:
    """One release that is installed, on the platforms that its marker names."""

    need: Requirement
    hashes: frozenset[str]
    asked_by: frozenset[str]
    """Who wants it: packages, and `-r <file>` for those that are asked for."""

    @property
    def name(self) -> str:
        """The package's name."""
        return canonicalize_name(self.need.name)

    @property
    def is_for_here(self) -> bool:
        """Whether this Python, on this platform, installs it."""
        return self.need.marker is None or self.need.marker.evaluate()


def path(name: str, suffix: str) -> Path:
    """Return where the list of this name is: `.in` is written by hand, `.txt` by `make requirements`."""
    return (ROOT / name).with_suffix(suffix)


def asked(name: str) -> dict[str, Requirement]:
    """Return what the list asks for itself, by name. Twice the same is an error."""
    lines = (line.partition("#")[0].strip() for line in path(name, ".in").read_text().splitlines())
    needs = [Requirement(line) for line in lines if line and not line.startswith("-")]
    by_name = {canonicalize_name(need.name): need for need in needs}
    assert len(by_name) == len(needs), f"{name}.in asks for something twice"
    return {str(key): need for key, need in by_name.items()}


def pinned(name: str) -> list[Pin]:
    """Return what the list pins, line by line."""
    blocks = re.split(r"^(?=[A-Za-z0-9])", path(name, ".txt").read_text(), flags=re.MULTILINE)[1:]
    return [_pin(block) for block in blocks]


def _pin(block: str) -> Pin:
    via = re.search(r"# via (.*)", block)
    return Pin(
        need=Requirement(block.partition("\\")[0].partition("#")[0].strip()),
        hashes=frozenset(re.findall(r"--hash=(sha256:[0-9a-f]{64})", block)),
        asked_by=frozenset(via[1].split(", ") if via else ()),
    )
