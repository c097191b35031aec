"""Sessions that end soon, for tests that wait for the end of a key."""

import pytest

from guidsvc.auth import session


@pytest.fixture
def short_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the service look a key up again after 0.2 s, and trust a lookup for 0.4 s, instead of 2 and 4 s."""
    monkeypatch.setattr(session, "FRESH_SECONDS", 0.2)
    monkeypatch.setattr(session, "GOOD_SECONDS", 0.4)
