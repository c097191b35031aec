"""Warnings at start about settings: a short retention without a unit was probably meant as days."""

import pytest

from guidsvc.bootstrap.validation import load
from guidsvc.cli.setting_warnings import warn_of_settings
from tests.conftest import ExpectedLogs

EVENT = "duration without a unit is in seconds"


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (["--events-retention", "7"], ["--events-retention"]),
        (["--retention=30", "--warn-before", "7,1,1d"], ["--retention", "--warn-before", "--warn-before"]),
        (["--events-retention", "7s", "--warn-before", "30s,3600", "--retention", "0"], []),
        ([], []),
    ],
)
def test_short_duration_without_a_unit_is_named(
    words: list[str], settings: list[str], expected_logs: ExpectedLogs, caplog: pytest.LogCaptureFixture
) -> None:
    expected_logs.add(EVENT)
    warn_of_settings(load(words), words)
    found = [record.msg for record in caplog.records if isinstance(record.msg, dict) and record.msg["event"] == EVENT]

    assert [each["setting"] for each in found] == settings
    assert all(
        each["remedy"] == f"write {each['value']}s if that is meant, or another unit, as in {each['value']}d"
        for each in found
    )
