"""The detection of keys that are used for the first time."""

from guidsvc.telemetry.outage import FirstTimes


def test_key_is_first_once_and_beyond_the_maximum_none_is() -> None:
    times = FirstTimes(2)

    assert [times.is_first(key) for key in ("a", "a", 1, "b", "a")] == [True, False, True, False, False]
    assert times.count == 2
