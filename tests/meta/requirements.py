"""Read the requirements in `requirements*.in` and the pins in `requirements*.txt`, without a registry.

Names are normalised like on PyPI: `PyYAML` is `pyyaml`.
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
    """A pinned release, for the platforms of its marker."""

    need: Requirement
    hashes: frozenset[str]
    requested_by: frozenset[str]
    """Packages that require it, and `-r <file>` for direct requirements."""

    @property
    def name(self) -> str:
        """The package's name."""
        return canonicalize_name(self.need.name)

    @property
    def is_for_this_platform(self) -> bool:
        """Whether this Python, on this platform, installs it."""
        return self.need.marker is None or self.need.marker.evaluate()


def path(name: str, suffix: str) -> Path:
    """Return the path of a list: `.in` is written by hand, `.txt` by `make requirements`."""
    return (ROOT / name).with_suffix(suffix)


def requested(name: str) -> dict[str, Requirement]:
    """Return the direct requirements of a list by name. A duplicate is an error."""
    lines = (line.partition("#")[0].strip() for line in path(name, ".in").read_text().splitlines())
    needs = [Requirement(line) for line in lines if line and not line.startswith("-")]
    by_name = {canonicalize_name(need.name): need for need in needs}
    assert len(by_name) == len(needs), f"{name}.in asks for something twice"
    return {str(key): need for key, need in by_name.items()}


def pinned(name: str) -> list[Pin]:
    """Return the pins of a list."""
    blocks = re.split(r"^(?=[A-Za-z0-9])", path(name, ".txt").read_text(), flags=re.MULTILINE)[1:]
    return [_pin(block) for block in blocks]


def _pin(block: str) -> Pin:
    via = re.search(r"# via (.*)", block)
    return Pin(
        need=Requirement(block.partition("\\")[0].partition("#")[0].strip()),
        hashes=frozenset(re.findall(r"--hash=(sha256:[0-9a-f]{64})", block)),
        requested_by=frozenset(via[1].split(", ") if via else ()),
    )
