"""The base class of all domain errors, and the search in tables of error classes."""

from collections.abc import Mapping
from typing import TypeVar

_Value = TypeVar("_Value")


def found_by_class(table: Mapping[type, _Value], error: type[BaseException]) -> _Value | None:
    """Return the table's value for an error class or its nearest base class, or None if the table has neither."""
    return next((table[base] for base in error.__mro__ if base in table), None)


class GuidsvcError(Exception):
    """Base class of all domain errors."""
