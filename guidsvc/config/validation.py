"""Checks of the settings beyond types and bounds. Each command has a table of those that concern it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from guidsvc.config.loading import load
from guidsvc.config.settings import Settings
from guidsvc.errors import InvalidSettings, StartError


class Check(NamedTuple):
    """A check of the settings `names`. `run` raises StartError if they are invalid."""

    names: tuple[str, ...]
    run: Callable[[Settings], object]


def load_valid(words: Sequence[str], checks: Sequence[Check]) -> Settings:
    """Return the settings. Raise InvalidSettings, which lists all faults, if any is invalid.

    A check is left out if one of its settings is already known to be invalid.
    """
    try:
        settings = load(words)
    except InvalidSettings as error:
        raise _completed(error, checks) from None
    faults = _faults(settings, checks, frozenset())
    if faults:
        raise InvalidSettings(faults, settings)
    return settings


def _completed(error: InvalidSettings, checks: Sequence[Check]) -> InvalidSettings:
    """Return the error of `load` with the faults that the checks find in the valid settings."""
    if error.settings is None:
        return error
    faults = _faults(error.settings, checks, error.names)
    return InvalidSettings([*error.faults, *faults], error.settings, error.names)


def _faults(settings: Settings, checks: Sequence[Check], invalid: frozenset[str]) -> list[str]:
    possible = (check for check in checks if invalid.isdisjoint(check.names))
    return list(dict.fromkeys(fault for check in possible for fault in _fault(check, settings)))


def _fault(check: Check, settings: Settings) -> list[str]:
    try:
        check.run(settings)
    except StartError as error:
        return [str(error)]
    return []
