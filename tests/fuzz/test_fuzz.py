"""The service and its document agree on random requests."""

from pathlib import Path

import pytest

from tests.fuzz import access as fuzz_access
from tests.fuzz.conformance import fuzz


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_responses_to_random_requests_match_the_document(tmp_path: Path) -> None:
    passed, output = fuzz(tmp_path, cases=3)

    assert passed, output


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["nobody", "writer", "another", "admin"])
def test_random_requests_reveal_no_records_of_others(tmp_path: Path, kind: str) -> None:
    """They change none either. A request by an admin reveals the canary: a leak would be detected.

    The requests are the examples of the document, which reach the records of the victim with valid bodies. `make fuzz`
    also generates requests, and tries the other kinds of keys, whose scopes are among those of `another`.
    """
    result = fuzz_access.fuzz(tmp_path, kind, cases=3, phases="examples")

    assert result.conforms, result.output
    if kind == "admin":
        assert result.leaks
    else:
        assert (result.leaks, result.changed) == ([], False)
