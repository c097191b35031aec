"""Tables: the conversion of rows to models."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_core import from_json

from guidsvc.domain import record as record_module
from guidsvc.domain.record import DELETED_EXPIRE, MetadataCheck, render_metadata
from guidsvc.store.sqlite.tables import RECORDS, metadata_check, records_of
from tests.support.factories import GUID, record

NOW = 1_795_000_000_000
ROWS = [
    RECORDS.values(record(NOW, **fields))
    for fields in (
        {},
        {"user": 'Zürich "🜁"', "owner": "o", "metadata": '{"ö":1}'},
        {"expire": DELETED_EXPIRE, "version": NOW + 1},
    )
]
WRONG: dict[str, list[object]] = {
    "guid": [GUID.lower(), 1, None],
    "user": ["", "\n", "x" * 257, b"x", None],
    "expire": ["1", 1.0, -2, 253_402_300_800],
    "metadata": ["[]", "NaN", b"{}", 1],
    "owner": [None, 1],
    "version": [-1, "1", None, True],
    "created": [-1],
    "updated": [-1],
    "purge_at": [-1, None],
}
PADDING = "x" * 1100
BEGINNING = f'{{"pad":"{PADDING}","a":'


@pytest.fixture(scope="module")
def check() -> Iterator[MetadataCheck]:
    with closing(sqlite3.connect(":memory:")) as connection:
        yield metadata_check(connection)


def test_rows_are_converted_like_single_rows() -> None:
    models = records_of(ROWS)

    assert models == [RECORDS.row(values) for values in ROWS]
    assert [each.model_dump_json() for each in models] == [RECORDS.row(values).model_dump_json() for values in ROWS]
    assert models[1].model_copy(update={"version": 7}).version == 7
    assert models[1].model_fields_set == RECORDS.row(ROWS[1]).model_fields_set


@pytest.mark.parametrize(("column", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_invalid_row_is_rejected_among_others_as_alone(column: str, value: object) -> None:
    values = dict(zip(RECORDS.columns, ROWS[0], strict=True)) | {column: value}
    row = tuple(values[name] for name in RECORDS.columns)

    for convert in (lambda: records_of([ROWS[0], row]), lambda: RECORDS.row(row)):
        with pytest.raises(ValidationError):
            convert()


def test_large_metadata_is_validated_without_decoding(check: MetadataCheck, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding makes thousands of objects: up to 0.5 ms for 16 KiB, in which no other request runs."""
    row = RECORDS.values(record(NOW, metadata=f"{BEGINNING}[{','.join(['[[[[]]]]'] * 1700)}]}}"))
    monkeypatch.setattr(record_module, "from_json", pytest.fail)

    assert [RECORDS.row(row, check)] == records_of([row], check)


@pytest.mark.parametrize(
    "end",
    [
        *("", "1", "[}", "NaN}", "Infinity}", "-Infinity}", "01}", ".5}", "+1}", "1e}", "0x1}", "1,}", "nul}", "'x'}"),
        *("{b:1}}", "1}}", "1} {}", "1}//", "\u00a01}", "1}\0", '"\0"}', '"\n"}'),
        *(r'"\x41"}', r'"\u00g0"}', r'"\ud800"}', r'"\\\uD800"}'),
    ],
)
def test_large_invalid_metadata_is_rejected(check: MetadataCheck, end: str) -> None:
    names = RECORDS.columns
    row = tuple((dict(zip(names, ROWS[0], strict=True)) | {"metadata": BEGINNING + end}).values())

    for convert in (lambda: records_of([ROWS[0], row], check), lambda: RECORDS.row(row, check)):
        with pytest.raises(ValidationError):
            convert()


def test_large_array_is_no_metadata(check: MetadataCheck) -> None:
    assert not check(json.dumps([PADDING]))


@given(
    value=st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists),
    at=st.integers(0, 99),
)
def test_metadata_that_the_check_accepts_can_be_decoded(check: MetadataCheck, value: object, at: int) -> None:
    """Damaged or not; and it accepts all that the service has rendered."""
    try:
        metadata = render_metadata({"pad": PADDING, "a": value})
    except ValueError:
        return
    assert metadata is not None
    rendered = metadata.decode()
    assert check(rendered)
    place = len(BEGINNING) + at % (len(rendered) - len(BEGINNING))
    for damaged in (
        rendered[:place],
        rendered[:place] + "\0" + rendered[place:],
        rendered[:place] + rendered[place + 1 :],
    ):
        if check(damaged):
            assert isinstance(from_json(damaged, allow_inf_nan=False), dict)
