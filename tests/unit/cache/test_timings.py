"""The tests by which `python -m bench.timing` tells two samples apart, or does not."""

import random
import statistics
from collections.abc import Callable, Sequence

import pytest

from bench.timing import difference, kolmogorov_smirnov, mann_whitney

Judge = Callable[[Sequence[float], Sequence[float]], float]
JUDGES = pytest.mark.parametrize("judge", [kolmogorov_smirnov, mann_whitney])


def drawn(seed: int, mean: float = 0.0, count: int = 200) -> list[float]:
    """Draw a sample."""
    draw = random.Random(seed)
    return [draw.gauss(mean, 1) for _ in range(count)]


@JUDGES
def test_equal_distributions_are_told_apart_at_the_stated_rate(judge: Judge) -> None:
    found = [judge(drawn(2 * seed), drawn(2 * seed + 1)) for seed in range(400)]

    assert 0.4 < statistics.median(found) < 0.6
    assert 5 <= sum(p < 0.05 for p in found) <= 35  # of which 20 are likely


@JUDGES
def test_equal_samples_are_not_told_apart(judge: Judge) -> None:
    for sample in (drawn(1), [1.0, 1.0, 2.0, 2.0], [1.0] * 9):
        assert judge(sample, sample) == pytest.approx(1)


@JUDGES
def test_shift_is_detected(judge: Judge) -> None:
    assert judge(drawn(1), drawn(2, mean=0.5)) < 0.001
    assert judge(drawn(1, count=5000), drawn(2, mean=0.1, count=5000)) < 0.001


def test_wider_spread_is_detected_by_one_of_the_tests() -> None:
    wide = [2 * each for each in drawn(2)]

    assert kolmogorov_smirnov(drawn(1), wide) < 0.01
    assert mann_whitney(drawn(1), wide) > 0.01


def test_difference_of_medians_is_within_its_bounds() -> None:
    low, middle, high = difference(drawn(1, mean=1), drawn(2), random.Random(1))

    assert low < middle < high
    assert low < 1 < high
