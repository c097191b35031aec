"""What looks unsafe and is not is let pass with its reason, on its line, for one check by name."""

import re
from collections.abc import Iterator

from tests.support.backing_servers import ROOT


def passes() -> Iterator[str]:
    """Yield each line of the service that Bandit, or ruff after its example, lets pass."""
    folders = (ROOT / "guidsvc", ROOT / "guidsvc_client")
    for file in [ROOT / "pdapt.py", *(file for folder in folders for file in folder.rglob("*.py"))]:
        yield from (line for line in file.read_text().splitlines() if re.search(r"\bnosec\b|noqa: S[0-9]", line))


def test_suppression_has_a_reason() -> None:
    assert list(passes())
    for line in passes():
        assert re.search(r"# nosec B[0-9]+  # \w", line), line


def test_bandit_and_ruff_suppress_the_same_lines() -> None:
    for line in passes():
        of_ruff, of_bandit = re.search(r"noqa: S([0-9]+)", line), re.search(r"nosec B([0-9]+)", line)
        assert of_bandit, line
        allowed = {of_ruff[1]} if of_ruff else {"104", "404"}  # of ruff, one is off throughout, the other is a preview
        assert of_bandit[1] in allowed, line
