"""Tests of the time limit for work that blocks."""

from threading import Event

import pytest

from guidsvc.time_limit import TimeLimitExceeded, within

LONG_SECONDS = 60.0


def test_result_of_the_work_is_returned() -> None:
    assert within(LONG_SECONDS, lambda: "done") == "done"


@pytest.mark.parametrize("error", [ValueError("no number"), TimeoutError("of a socket"), SystemExit(3)], ids=repr)
def test_error_of_the_work_is_raised(error: BaseException) -> None:
    def work() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        within(LONG_SECONDS, work)
    assert raised.value is error


def test_work_that_takes_too_long_is_abandoned() -> None:
    end = Event()
    try:
        with pytest.raises(TimeLimitExceeded, match=r"^no result within 0\.01 s$") as raised:
            within(0.01, end.wait)
        assert raised.value.seconds == 0.01
    finally:
        end.set()
