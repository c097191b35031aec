"""What a caller may do, and what it is advised if it may not."""

import pytest

from guidsvc.domain.caller import ADMIN, KEY, MONITOR, READ, Caller
from guidsvc.errors import Forbidden


@pytest.mark.parametrize("scope", [READ, ADMIN])
def test_caller_with_the_scope_is_admitted(scope: str) -> None:
    caller = Caller("a", frozenset({scope}), "key:a")  # type: ignore[arg-type]

    caller.demand(READ)
    caller.demand(KEY)


def test_key_without_a_scope_is_told_which_key_to_make() -> None:
    with pytest.raises(Forbidden) as caught:
        Caller("a", frozenset({READ}), "key:a").demand(MONITOR)
    assert str(caught.value) == (
        "The key lacks the scope monitor; make another: pdapt.py keys create --owner NAME --scopes monitor"
    )


def test_token_without_a_scope_is_told_the_scope_alone() -> None:
    with pytest.raises(Forbidden) as caught:
        Caller("a", frozenset({READ}), "jwt:a").demand(MONITOR)
    assert str(caught.value) == "The token lacks the scope monitor."
