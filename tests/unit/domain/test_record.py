"""Valid and invalid values of records."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_core import to_json

from guidsvc.domain.record import SMALL_BYTES, Record, parse_guid, render_bodies
from guidsvc.errors import InvalidGuid
from tests.support.factories import GUID, record

NOW = 1_795_000_000_000


def test_guid_is_32_upper_case_hexadecimal_characters() -> None:
    assert parse_guid(GUID) == GUID


@pytest.mark.parametrize(
    "text",
    [
        GUID.lower(),
        "9094e4c9-80c7-4043-a4b5-86b420e69ddf",
        "{9094E4C9-80C7-4043-A4B5-86B420E69DDF}",
        "urn:uuid:9094e4c9-80c7-4043-a4b5-86b420e69ddf",
        f" {GUID}\n",
    ],
)
def test_guid_in_other_notation_is_rejected_with_a_suggestion(text: str) -> None:
    with pytest.raises(InvalidGuid, match=GUID):
        parse_guid(text)


def test_guid_with_lookalike_letters_is_rejected() -> None:
    with pytest.raises(InvalidGuid, match="16 characters"):
        parse_guid("\ufb00" * 16)  # str.upper turns these into 32 times F


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "0 characters"), (GUID[:-1], "31 characters"), ("G" * 32, "'G'"), ("٣" * 32, "'٣'"), (GUID + "\n0", "34")],
)
def test_invalid_guid_is_rejected_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidGuid, match=reason):
        parse_guid(text)


def test_wire_format_orders_guid_expire_and_user() -> None:
    assert record(NOW, expire=1427736345).json_body == b'{"guid":"%b","expire":"1427736345","user":"Cylance, Inc."}' % (
        GUID.encode()
    )


def test_wire_format_has_metadata_last_and_utf_8_text() -> None:
    body = record(NOW, expire=0, user="Zürich 🜁", metadata='{"ö":1}').json_body

    assert body.decode() == f'{{"guid":"{GUID}","expire":"0","user":"Zürich 🜁","metadata":{{"ö":1}}}}'


@pytest.mark.parametrize(
    "fields",
    [
        {"guid": GUID.lower()},
        {"guid": GUID + "\n"},
        {"user": ""},
        {"expire": "1"},
        {"expire": -2},
        {"metadata": "{"},
        {"metadata": "[]"},
        {"metadata": '{"a": Infinity}'},
        {"version": None},
        {"color": "red"},
    ],
)
def test_stored_values_are_validated_too(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        record(NOW, **fields)


def test_record_is_immutable() -> None:
    with pytest.raises(ValidationError):
        record(NOW).user = "another"


def test_stored_form_has_every_field_of_a_record() -> None:
    stored = record(NOW, metadata='{"a":1}')

    assert Record.model_validate_json(stored.model_dump_json()) == stored


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
@example('"\\/\u2028')
def test_wire_format_of_a_user_is_that_of_a_json_encoder(user: str) -> None:
    try:
        created = record(NOW, expire=7, user=user)
    except ValidationError:
        return

    rendered = to_json({"guid": GUID, "expire": "7", "user": user})
    assert render_bodies([created, created]) == [rendered, rendered]
    assert record(NOW, expire=7, user=user).json_body == rendered


def test_bodies_of_records_are_rendered_as_each_alone() -> None:
    metadata = [None, '{"a":1}', f'{{"ö":"{"x" * SMALL_BYTES}"}}']

    bodies = render_bodies([record(NOW, metadata=text) for text in metadata])

    assert bodies == [record(NOW, metadata=text).json_body for text in metadata]
