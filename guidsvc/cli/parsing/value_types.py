"""Types of the values of options and arguments."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import click

_Value = TypeVar("_Value")


class Parsed(click.ParamType[_Value], Generic[_Value]):
    """A value that a function parses from the text. Its ValueError says what the text must be."""

    def __init__(self, name: str, parse: Callable[[str], _Value]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> _Value:
        """Return the value of a text. A default that is not a text is already a value."""
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class OneOf(click.Choice[str]):
    """One of several words."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:  # noqa: ARG002  # Click's signature
        """Return what the value must be."""
        return f"invalid choice: {value!r} (choose from {', '.join(map(repr, self.choices))})"
