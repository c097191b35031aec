"""Errors that a batch stores as values, to report them later."""

from typing import TypeVar

_Error = TypeVar("_Error", bound=BaseException)


def detached(error: _Error) -> _Error:
    """Clear the traceback, cause and context of an error that is stored as a value, and return the error.

    A traceback references every frame it passed, with all local variables. If one of them references the error, the
    cycle stays in memory until the garbage collector runs.
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error
