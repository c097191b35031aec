"""The scopes of a caller, and the advice if a scope is missing."""

import re

import pytest

from guidsvc.domain.caller import ADMIN, DELETE, KEY, MONITOR, READ, WRITE, Caller
from guidsvc.errors import Forbidden


@pytest.mark.parametrize("scope", [READ, ADMIN])
def test_caller_with_the_scope_is_admitted(scope: str) -> None:
    caller = Caller("a", frozenset({scope}), "key:a")  # type: ignore[arg-type]

    caller.demand(READ)
    caller.demand(KEY)


def test_error_of_a_key_without_the_scope_names_a_command() -> None:
    with pytest.raises(Forbidden) as error:
        Caller("a", frozenset({READ}), "key:a").demand(MONITOR)
    assert str(error.value) == (
        "The key lacks the scope monitor. To create a key that has it, run with the --store-url of this service: "
        "guidsvc keys create --owner a --scopes read,monitor"
    )


@pytest.mark.parametrize(
    ("owner", "expected"),
    [
        ("Cylance, Inc.", "'Cylance, Inc.'"),
        ("it's", "NAME"),
        ("\u202eevil", "NAME"),
        ("a" * 65, "NAME"),
        ("$(x)", "NAME"),
    ],
)
def test_only_a_plain_owner_is_in_the_command(owner: str, expected: str) -> None:
    with pytest.raises(Forbidden, match=f"create --owner {re.escape(expected)} --scopes write,delete$"):
        Caller(owner, frozenset({DELETE}), "key:a").demand(WRITE)


def test_error_of_a_token_without_the_scope_names_the_scope() -> None:
    with pytest.raises(Forbidden) as error:
        Caller("a", frozenset({READ}), "jwt:a").demand(MONITOR)
    assert str(error.value) == "The token lacks the scope monitor; ask its issuer for a token that has it."
