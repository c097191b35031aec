"""Giving freed memory back to the system: glibc keeps what was freed between blocks that are still in use."""

import ctypes
import gc
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
    """Free what is unreachable, and give freed memory back to the system, where the C library can.

    It takes some milliseconds. Connections that have ended, with TLS above all, may be parts of reference cycles; the
    oldest generation is left out, as that would take time in proportion to all that is cached.
    """
    gc.collect(1)
    if _trim is not None:
        _trim(0)
