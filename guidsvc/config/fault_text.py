"""The text about an invalid setting: its requirement, from the type and the bounds of its field."""

from collections.abc import Collection
from typing import Any, get_args

from pydantic import BeforeValidator
from pydantic_core import ErrorDetails

from guidsvc.config.settings import Settings
from guidsvc.connection_urls import redact

_SIZE = "must be a number of bytes or a size with a unit (64MiB, 1GiB)"
_REQUIREMENTS = {
    "bool_parsing": "must be on or off",
    "byte_size": _SIZE,
    "byte_size_unit": _SIZE,
    "string_too_short": "must not be empty",
}
"""Texts by pydantic's type of the fault. Other faults are of a value that the field's type and bounds exclude."""
_FAULTS_OF_NUMBERS = frozenset(
    {
        "int_parsing",
        "int_parsing_size",
        "int_from_float",
        "int_type",
        "float_parsing",
        "float_type",
        "finite_number",
        "greater_than",
        "greater_than_equal",
        "less_than",
        "less_than_equal",
    }
)


def fault_text(fault: ErrorDetails, hidden: Collection[str]) -> str:
    """Return the line of a fault that pydantic found; values of `hidden` settings are not shown."""
    name = str(fault["loc"][0]) if fault["loc"] else "settings"
    requirement, given = _requirement(name, fault), fault["input"]
    message = f"{name}: {requirement}"
    may_be_secret = name in {"settings", *hidden}
    if may_be_secret or not (requirement.startswith("must be ") and isinstance(given, str) and given):
        return message
    return f"{message}, not {redact(given)!r}"


def _requirement(name: str, fault: ErrorDetails) -> str:
    """Return what the value must be, as a clause without a subject."""
    kind = fault["type"]
    if kind in _FAULTS_OF_NUMBERS and name in Settings.model_fields:
        return f"must be {_number(name)}"
    if kind == "literal_error" and name in Settings.model_fields:
        return f"must be {_alternatives(_choices(Settings.model_fields[name].annotation))}"
    text = _REQUIREMENTS.get(kind) or fault["msg"].removeprefix("Value error, ")
    return text[0].lower() + text[1:]


def _number(name: str) -> str:
    """Return the numbers that a setting accepts, such as `a whole number from 0 to 65535`."""
    field = Settings.model_fields[name]
    noun = "a number" if field.annotation is float else "a whole number"
    if any(isinstance(each, BeforeValidator) for each in field.metadata):
        noun += " of seconds"
    lowest, above, highest = (_bound(field.metadata, each) for each in ("ge", "gt", "le"))
    if above is not None:
        return f"{noun} above {above:g}" + ("" if highest is None else f", and at most {highest}")
    if highest is None:
        return f"{noun}, at least {lowest}"
    return f"{noun} from {lowest} to {highest}"


def _bound(metadata: Collection[Any], name: str) -> int | float | None:
    """Return a bound of a field: `ge`, `gt` or `le`."""
    return next((getattr(each, name) for each in metadata if hasattr(each, name)), None)


def _choices(annotation: Any) -> list[str]:
    """Return the texts that a Literal accepts, which may be one of several alternatives."""
    arguments = get_args(annotation)
    return [choice for each in arguments for choice in (_choices(each) if get_args(each) else [each])]


def _alternatives(choices: Collection[object]) -> str:
    """Return `a, b or c`."""
    *others, last = [str(each) for each in choices if isinstance(each, str)]
    return f"{', '.join(others)} or {last}" if others else last
