"""Giving freed memory back to the system: glibc keeps what was freed below something that is still in use."""

import ctypes
from collections.abc import Callable


def _trimmer() -> Callable[[int], int] | None:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # no glibc
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return trim


_trim = _trimmer()


def release() -> None:
    """Give freed memory back to the system, where the C library can. It may take some milliseconds."""
    if _trim is not None:
        _trim(0)
