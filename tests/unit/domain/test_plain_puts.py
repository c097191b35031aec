"""Plain puts: what is read together is what the model of an operation makes of each."""

from itertools import repeat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from guidsvc.domain.bulk.construction import construct
from guidsvc.domain.bulk.plain_puts import read_plain_puts
from guidsvc.domain.commands import BatchOperation
from guidsvc.domain.record import MAX_TIME, MAX_USER_CHARACTERS
from tests.support.factories import GUID, USER

OTHER: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.just([]) | st.just({}) | st.text(max_size=3)
)
MEMBERS: dict[str, st.SearchStrategy[Any]] = {
    "op": st.sampled_from(["put", "put", "get", "delete", "renew", "PUT"]) | OTHER,
    "guid": st.sampled_from([GUID, "F" * 32, GUID.lower(), GUID[1:], GUID + "\n"]) | OTHER,
    "user": st.text(max_size=5)
    | st.sampled_from([USER, "x" * MAX_USER_CHARACTERS, "x" * (MAX_USER_CHARACTERS + 1), "a\n", "\x85", "\u2003"]),
    "expire": st.integers(-2, MAX_TIME + 2)
    | st.integers(-2, MAX_TIME + 2).map(str)
    | st.sampled_from(["007", "1\n", "٣", "0" * 5000 + "7", "1.0", "1_0", " 1", 1e3, ""])
    | OTHER,
    "metadata": st.dictionaries(st.text(max_size=3), OTHER, max_size=3)
    | st.sampled_from([{"a": {"b": [1, 1.0, True]}}, {"a": [[[[[[[[[1]]]]]]]]]}, {"a": "x" * 17_000}, {"a": 10**400}])
    | OTHER,
    "ttl": st.integers(-1, 5),
    "if_match": st.text(max_size=3),
    "color": st.text(max_size=3),
}
VALUES = st.lists(st.fixed_dictionaries({}, optional=MEMBERS) | OTHER, min_size=1, max_size=3)


def states(models: list[BatchOperation]) -> list[object]:
    """Return all that models hold, in its order."""
    return [(*each.__dict__.items(), each.model_fields_set, each.model_extra) for each in models]


@given(VALUES)
def test_plain_puts_equal_operations(values: list[object]) -> None:
    puts = read_plain_puts(values)

    if puts is not None:
        assert states(puts) == states([BatchOperation.model_validate(value, context={}) for value in values])


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"guid": GUID},
        {"op": "put"},
        {"expire": "1795000000"},
        {"expire": 1795000000},
        {"metadata": {"a": [1]}},
        {"metadata": {}},
    ],
)
def test_usual_puts_are_plain(members: dict[str, object]) -> None:
    value = {"user": USER} | members

    assert read_plain_puts([value, value]) == [BatchOperation.model_validate(value)] * 2
    assert read_plain_puts([value, {"user": None}]) is None


def test_constructed_model_equals_a_validated_one() -> None:
    class Model(BaseModel):
        first: int
        second: str = "b"

    made = construct(Model, [{"first": 1, "second": "b"}], repeat({"first"}))

    assert made == [Model(first=1)]
    assert made[0].model_dump(exclude_unset=True) == {"first": 1}
