"""The number of examples that Hypothesis generates: few in the suite, many times as many in `make fuzz`."""

import os

_FACTOR = int(os.environ.get("GUIDSVC_TEST_EXAMPLES", "1"))


def example_count(count: int) -> int:
    """Return the number of examples of a test: `count` in the suite, times the variable GUIDSVC_TEST_EXAMPLES."""
    return count * _FACTOR
