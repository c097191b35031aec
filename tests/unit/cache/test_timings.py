"""The statistical tests by which `python -m bench.timing` compares two samples."""

import random
import statistics
from collections.abc import Callable, Sequence

import pytest

from bench.timing import difference, kolmogorov_smirnov, mann_whitney

Judge = Callable[[Sequence[float], Sequence[float]], float]
JUDGES = pytest.mark.parametrize("judge", [kolmogorov_smirnov, mann_whitney])


def sample_of(seed: int, mean: float = 0.0, count: int = 200) -> list[float]:
    """Draw a sample."""
    draw = random.Random(seed)
    return [draw.gauss(mean, 1) for _ in range(count)]


@JUDGES
def test_equal_distributions_are_told_apart_at_the_stated_rate(judge: Judge) -> None:
    p_values = [judge(sample_of(2 * seed), sample_of(2 * seed + 1)) for seed in range(400)]

    assert 0.4 < statistics.median(p_values) < 0.6
    assert 5 <= sum(p < 0.05 for p in p_values) <= 35  # 20 are expected


@JUDGES
def test_equal_samples_are_not_told_apart(judge: Judge) -> None:
    for sample in (sample_of(1), [1.0, 1.0, 2.0, 2.0], [1.0] * 9):
        assert judge(sample, sample) == pytest.approx(1)


@JUDGES
def test_shift_is_detected(judge: Judge) -> None:
    assert judge(sample_of(1), sample_of(2, mean=0.5)) < 0.001
    assert judge(sample_of(1, count=5000), sample_of(2, mean=0.1, count=5000)) < 0.001


def test_wider_spread_is_detected_by_one_of_the_tests() -> None:
    wide = [2 * value for value in sample_of(2)]

    assert kolmogorov_smirnov(sample_of(1), wide) < 0.01
    assert mann_whitney(sample_of(1), wide) > 0.01


def test_difference_of_medians_is_within_its_bounds() -> None:
    low, middle, high = difference(sample_of(1, mean=1), sample_of(2), random.Random(1))

    assert low < middle < high
    assert low < 1 < high
