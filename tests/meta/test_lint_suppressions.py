"""Each suppression of a security check is on its line, for one check by name, and has a reason."""

import re
from collections.abc import Iterator

from tests.support.backing_servers import ROOT


def suppressed_lines() -> Iterator[str]:
    """Yield each line of the service with a suppressed check of Bandit or of the same rules in ruff."""
    folders = (ROOT / "guidsvc", ROOT / "guidsvc_client")
    for file in [ROOT / "pdapt.py", *(file for folder in folders for file in folder.rglob("*.py"))]:
        yield from (line for line in file.read_text().splitlines() if re.search(r"\bnosec\b|noqa: S[0-9]", line))


def test_suppression_has_a_reason() -> None:
    assert list(suppressed_lines())
    for line in suppressed_lines():
        assert re.search(r"# nosec B[0-9]+  # \w", line), line


def test_bandit_and_ruff_suppress_the_same_lines() -> None:
    for line in suppressed_lines():
        ruff_rule, bandit_rule = re.search(r"noqa: S([0-9]+)", line), re.search(r"nosec B([0-9]+)", line)
        assert bandit_rule, line
        allowed = (
            {ruff_rule[1]} if ruff_rule else {"104", "404"}
        )  # ruff has one disabled everywhere, and the other only as a preview
        assert bandit_rule[1] in allowed, line
