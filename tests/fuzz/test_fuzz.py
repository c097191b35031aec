"""The service and its document agree on requests that nobody thought of."""

from pathlib import Path

import pytest

from tests.fuzz import access as fuzz_access
from tests.fuzz.__main__ import fuzz


@pytest.mark.timeout(180)
def test_responses_to_random_requests_match_the_document(tmp_path: Path) -> None:
    sound, said = fuzz(tmp_path, cases=3)

    assert sound, said


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", fuzz_access.KINDS)
def test_random_requests_reveal_no_records_of_others(tmp_path: Path, kind: str) -> None:
    """Nor changes it, whatever the key; an admin is told, by which it is known that this would be seen."""
    found = fuzz_access.fuzz(tmp_path, kind, cases=3, phases="examples,fuzzing")

    assert found.conforms, found.said
    if kind == "admin":
        assert found.told
    else:
        assert (found.told, found.changed) == ([], False)
