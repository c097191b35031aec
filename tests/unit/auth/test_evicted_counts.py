"""Counts of names that were evicted from a cache."""

from guidsvc.auth.evicted_counts import COLUMNS, EvictedCounts

WINDOW = 7


def test_count_of_a_window_is_never_too_low_and_rarely_too_high() -> None:
    counts = EvictedCounts()
    for number in range(10_000):
        counts.add(f"evicted {number}", WINDOW, number)
    assert all(counts.count(f"evicted {number}", WINDOW) >= number for number in range(10_000))
    strangers = [f"stranger {number}" for number in range(1000)]
    assert sum(counts.count(name, WINDOW) > 0 for name in strangers) < 100


def test_counts_end_with_their_window() -> None:
    counts = EvictedCounts()
    counts.add("a", WINDOW, 3)
    counts.add("a", WINDOW, 2)
    assert (counts.count("a", WINDOW), counts.count("a", WINDOW + 1)) == (3, 0)
    counts.add("b", WINDOW + 1, 1)
    counts.add("a", WINDOW, 9)
    assert (counts.count("a", WINDOW + 1), counts.count("b", WINDOW + 1)) == (0, 1)


def test_size_of_evicted_counts_is_fixed() -> None:
    counts = EvictedCounts()
    counts.add("without a count", WINDOW, 0)
    assert not counts._rows
    for number in range(1000):
        counts.add(str(number), WINDOW, 1 << 40)
    assert [len(row) * row.itemsize for row in counts._rows] == [4 * COLUMNS] * 2
