"""The number of examples that Hypothesis generates: few in the suite, many times as many in `make fuzz`."""

import os

_FACTOR = int(os.environ.get("GUIDSVC_TEST_EXAMPLES", "1"))


def example_count(count: int, *, times_in_fuzz: int = 1) -> int:
    """Return the number of examples of a test: `count` in the suite.

    With the variable GUIDSVC_TEST_EXAMPLES, as in `make fuzz`, it is `times_in_fuzz` times as many, times the variable.
    """
    return count if _FACTOR == 1 else count * times_in_fuzz * _FACTOR
