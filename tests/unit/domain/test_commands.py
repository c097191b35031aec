"""The bodies that clients may send."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guidsvc.api.parsing.body import parse
from guidsvc.domain.commands import CreateCommand, PutCommand
from guidsvc.domain.record import MAX_METADATA_BYTES, MAX_TIME
from guidsvc.errors import InvalidField, InvalidRequest
from tests.support.factories import GUID, USER, record
from tests.support.json_values import JSON_VALUES

NOW = 1_795_000_000_000


def put_command(body: str | bytes, guid: str | None = GUID) -> PutCommand:
    """Parse a body as a PUT to GUID does."""
    return parse(body if isinstance(body, bytes) else body.encode(), PutCommand, {"guid": guid})


def faults_of(body: str | bytes, guid: str | None = GUID) -> list[InvalidField]:
    """Return all faults of a body."""
    with pytest.raises(InvalidRequest) as error:
        put_command(body, guid)
    return list(error.value.faults)


def nested_metadata(levels: int) -> str:
    """Return a body with metadata of this many levels."""
    return '{"metadata":' + '{"a":' * (levels - 1) + "{}" + "}" * levels


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"1427736345"', 1427736345),
        ("1427736345", 1427736345),
        ('"0"', 0),
        ("0", 0),
        (f'"{MAX_TIME}"', MAX_TIME),
        (str(MAX_TIME), MAX_TIME),
        ('"0001427736345"', 1427736345),
        ('"' + "0" * 5000 + '7"', 7),
    ],
)
def test_expiry_is_a_string_of_digits_or_an_integer(text: str, value: int) -> None:
    assert put_command(f'{{"expire": {text}}}').expire == value


@pytest.mark.parametrize(
    "text",
    [
        *("true", "false", "null", "1.0", "1e9", "-1", "[]", "{}", f"{MAX_TIME + 1}"),
        *('""', '"-1"', '"+1"', '" 1"', '"1 "', '"1_0"', '"1.0"', '"1e9"', '"0x1"', '"١٢"', '"²"', '"abc"', '"1\\n"'),
        *(f'"{MAX_TIME + 1}"', '"' + "9" * 5000 + '"', "9" * 4000),
    ],
)
def test_other_expiry_is_rejected(text: str) -> None:
    assert [fault.pointer for fault in faults_of(f'{{"expire": {text}}}')] == ["/expire"]


@pytest.mark.parametrize("user", ["x", USER, "x" * 256, "🜁" * 256, "Zürich", " padded ", "a\u00a0b", '"quoted"'])
def test_user_has_1_to_256_characters(user: str) -> None:
    assert put_command(json.dumps({"user": user})).user == user


@pytest.mark.parametrize("user", ["", "x" * 257, " ", "\u2003", "a\nb", "a\x00", "\x7f", "\x85", None, 1, True, [], {}])
def test_other_user_is_rejected(user: object) -> None:
    assert [fault.pointer for fault in faults_of(json.dumps({"user": user}))] == ["/user"]


@given(st.dictionaries(st.text(max_size=10), JSON_VALUES, min_size=1, max_size=3))
def test_metadata_is_returned_as_given(value: dict[str, object]) -> None:
    metadata = put_command(json.dumps({"metadata": value})).metadata

    assert metadata is not None
    text = metadata.decode()
    assert json.loads(text) == value
    assert json.loads(record(NOW, metadata=text).json_body)["metadata"] == value


def test_metadata_distinguishes_integer_float_and_boolean() -> None:
    assert put_command('{"metadata": {"a": [1, 1.0, true, 123456789012345678901234567890]}}').metadata == (
        b'{"a":[1,1.0,true,123456789012345678901234567890]}'
    )


def test_empty_object_means_no_metadata() -> None:
    command = put_command('{"metadata": {}}')

    assert command.metadata is None
    assert command.model_fields_set == {"metadata"}


def test_metadata_has_at_most_8_levels() -> None:
    assert put_command(nested_metadata(8)).metadata is not None
    assert [fault.pointer for fault in faults_of(nested_metadata(9))] == ["/metadata"]


def test_brackets_in_a_string_are_no_levels() -> None:
    for text in ("[" * 20, '"[[{' * 9, "\\", '\\"{{{{{{{{{'):
        body = {"metadata": {"a": text, "b" + text: [1]}}
        metadata = put_command(json.dumps(body)).metadata
        assert metadata is not None
        assert json.loads(metadata) == body["metadata"]


def test_metadata_has_at_most_16_kib() -> None:
    longest = "x" * (MAX_METADATA_BYTES - len('{"a":""}'))

    assert put_command(json.dumps({"metadata": {"a": longest}})).metadata is not None
    assert [fault.pointer for fault in faults_of(json.dumps({"metadata": {"a": longest + "x"}}))] == ["/metadata"]


@pytest.mark.parametrize("value", ["null", "[]", '"text"', "1", "true", '{"a": 1e400}', '{"a": [-1e400]}'])
def test_other_metadata_is_rejected(value: str) -> None:
    assert [fault.pointer for fault in faults_of(f'{{"metadata": {value}}}')] == ["/metadata"]


def test_guid_of_the_path_can_be_repeated_in_the_body() -> None:
    assert put_command(f'{{"guid": "{GUID}"}}').guid == GUID


@pytest.mark.parametrize("value", ['"0094E4C980C74043A4B586B420E69DDF"', f'"{GUID.lower()}"', "null", "1"])
def test_guid_that_differs_from_the_path_is_rejected(value: str) -> None:
    assert [fault.pointer for fault in faults_of(f'{{"guid": {value}}}')] == ["/guid"]


def test_guid_is_rejected_where_the_service_draws_it() -> None:
    assert [fault.pointer for fault in faults_of(f'{{"guid": "{GUID}"}}', guid=None)] == ["/guid"]


def test_unknown_member_is_rejected_by_name() -> None:
    assert [fault.pointer for fault in faults_of('{"a/b": 1, "c~d": 2}')] == ["/a~1b", "/c~0d"]


def test_errors_are_reported_together() -> None:
    reported = faults_of('{"expire": true, "user": "", "metadata": [], "guid": "x", "color": "red"}')

    assert [fault.pointer for fault in reported] == ["/expire", "/user", "/guid", "/metadata", "/color"]


def test_creation_needs_a_user() -> None:
    with pytest.raises(InvalidRequest) as error:
        parse(b'{"expire": -1}', CreateCommand, {"guid": None})
    assert [fault.pointer for fault in error.value.faults] == ["/expire", "/user"]


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"{", b'{"user": "x",}', b'{"user": NaN}', b'{"user": Infinity}', b"{'user': 'x'}", b"nothing"),
        *(b'{"user": "x"} {}', b'{"user": "\xff"}', b"\xef\xbb\xbf{}", b'{"user": "\\ud800"}', b'{"user": "a\nb"}'),
        *(b"[" * 10_000, b'{"a":' * 10_000, "{}".encode("utf-16"), b'{"expire": ' + b"1" * 50_000 + b"}"),
    ],
)
def test_invalid_json_is_rejected(body: bytes) -> None:
    assert [fault.pointer for fault in faults_of(body)] in ([""], ["/expire"])


def test_duplicate_member_is_rejected_anywhere() -> None:
    assert "repeats the member 'user'" in faults_of('{"user": "a", "user": "b"}')[0].detail
    assert "repeats the member 'b'" in faults_of('{"metadata": {"a": [{"b": 1, "b": 1}]}}')[0].detail


def test_malformed_json_is_rejected_with_its_position() -> None:
    assert "line 1 column 13" in faults_of('{"user": "x",}')[0].detail


@pytest.mark.parametrize(
    ("body", "kind"),
    {"[]": "a list", '"text"': "a string", "1": "a number", "null": "null", "true": "a boolean"}.items(),
)
def test_json_that_is_no_object_is_rejected(body: str, kind: str) -> None:
    rule = 'must be a JSON object, such as {"expire": "4102444800", "user": "Cylance, Inc."}'
    assert faults_of(body) == [InvalidField("", f"{rule}, not {kind}")]


@given(st.binary(max_size=200))
def test_any_bytes_yield_a_change_or_an_error(body: bytes) -> None:
    try:
        names = put_command(body).model_fields_set
    except InvalidRequest as error:
        names = {fault.pointer for fault in error.faults} & {""}

    assert names <= {"", "expire", "user", "metadata", "guid"}
