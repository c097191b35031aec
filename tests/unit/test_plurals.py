"""Numbers with a noun."""

from guidsvc.errors.plurals import counted


def test_one_is_singular_and_others_are_plural() -> None:
    assert [counted(count, "record") for count in (0, 1, 2, 11)] == ["0 records", "1 record", "2 records", "11 records"]
