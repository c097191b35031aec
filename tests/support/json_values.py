"""Hypothesis strategies of JSON values."""

from hypothesis import strategies as st

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
JSON_OBJECTS = st.dictionaries(st.text(max_size=3), JSON_VALUES, max_size=4)
"""Of at most 8 levels, and with few names, so that two of them often have a name in common."""


def json_list(item: str, count: int) -> str:
    """Return a list of equal items, given as JSON, as compact JSON."""
    return "[" + ",".join([item] * count) + "]"


def metadata_body(metadata: str) -> str:
    """Return a body with this metadata, given as JSON."""
    return '{"metadata":' + metadata + "}"


def listing_body(item: str, count: int) -> str:
    """Return a body whose metadata is a list of equal items."""
    return metadata_body('{"a":' + json_list(item, count) + "}")
