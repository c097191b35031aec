"""Tables: the conversion of rows to models."""

import pytest
from pydantic import ValidationError

from guidsvc.domain.record import DELETED_EXPIRE
from guidsvc.store.sqlite.tables import RECORDS, records_of
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
