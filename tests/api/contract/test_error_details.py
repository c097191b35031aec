"""The `detail` of an error: it begins with the first of the errors, is short, and repeats no secret."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from guidsvc.api.base import near_paths
from guidsvc.api.contract import problems
from guidsvc.api.parsing import body, json_errors, time_errors
from guidsvc.api.resources.batch.document_batch import operations_of
from guidsvc.domain.commands import PutCommand
from guidsvc.errors import InvalidField, InvalidRequest
from tests.conftest import Serving
from tests.support.factories import GUID


async def test_errors_list_what_the_detail_begins_with(serving: Serving) -> None:
    async with serving() as client:
        reply = await client.put(f"/guid/{GUID}", {"user": "a", "expire": 1798761600000, "metdata": {}})
        first, second = reply.json["errors"]
        assert first == {
            "pointer": "/expire",
            "detail": "must be Unix time in seconds, not in milliseconds; did you mean 1798761600?",
        }
        assert second["pointer"] == "/metdata"
        assert reply.json["detail"] == f"`expire` {first['detail']} (and 1 more error, listed in `errors`)."


def assert_four_compared(error: InvalidRequest, known: str) -> None:
    """Check that the first four of ten unknown names were compared with the known ones."""
    details = [fault.detail for fault in error.faults]
    assert all(f"did you mean `{known}`?" in detail for detail in details[:4])
    assert details[4:] == ["is not a known member; remove it"] * 6


def test_only_the_first_unknown_names_are_compared() -> None:
    with pytest.raises(InvalidRequest) as caught:
        body.validate({f"usr{number}": 1 for number in range(10)}, PutCommand, {})
    assert_four_compared(caught.value, "user")


def test_only_the_first_unknown_names_of_a_batch_are_compared() -> None:
    with pytest.raises(InvalidRequest) as caught:
        operations_of({f"operation{number}": 1 for number in range(10)} | {"operations": []})
    assert_four_compared(caught.value, "operations")


@given(st.text(min_size=1), st.booleans())
@example("x" * 100_000, False)
@example("\x00" * 1_000, True)
def test_detail_of_an_invalid_request_is_short(text: str, is_clause: bool) -> None:
    errors = InvalidRequest(*[InvalidField(f"/{text}", text, is_clause=is_clause)] * 100)
    assert len(json.loads(problems.render_brief(errors, "id"))["detail"]) < 500
    assert len(problems.render_brief(errors, "id")) < 700


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50)


@given(_SCALARS | st.datetimes().map(str) | st.dates().map(str) | st.lists(st.integers()))
@example("9" * 40)
@example("9" * 38 + "e9")
@example("0001-01-01T00:00:00+14:00")
@example("9999-12-31T23:59:59-14:00")
@example(float("inf"))
def test_every_value_of_a_time_is_explained(value: object) -> None:
    assert 0 < len(time_errors.explain(value)) < 200


def error_of(text: bytes) -> InvalidRequest | None:
    """Return the error of a body that is not JSON, or None if it is."""
    try:
        body.decode(text)
    except InvalidRequest as error:
        return error
    return None


@given(st.binary(max_size=60), st.sampled_from([b"", b'{"a": ', b"'", b"[1,", b'{"a":1}', b"\n\n{"]))
def test_every_body_that_is_not_json_is_explained(text: bytes, start: bytes) -> None:
    error = error_of(start + text)
    assert error is None or 0 < len(error.faults[0].detail) < 250


@given(st.text(max_size=120))
def test_no_path_is_repeated_in_its_answer(text: str) -> None:
    detail = near_paths.explain(f"/zq{text}zq", ["/guid", "/guid/{guid}"])
    assert "zq" not in detail
    assert len(detail) < 200


def test_example_body_is_valid() -> None:
    assert body.parse(json_errors.EXAMPLE_BODY.encode(), PutCommand, {}).user == "Cylance, Inc."
