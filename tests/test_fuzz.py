"""The service and its document agree on requests that nobody thought of."""

from pathlib import Path

import pytest

from tests.fuzz import fuzz


@pytest.mark.timeout(180)
def test_no_made_up_request_is_answered_otherwise_than_the_document_says(tmp_path: Path) -> None:
    sound, said = fuzz(tmp_path, cases=3)

    assert sound, said
