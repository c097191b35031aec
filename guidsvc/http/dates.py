"""The Date header of responses, rendered once a second."""

import time
from email.utils import formatdate


class _Date:
    def __init__(self) -> None:
        self.second = -1
        self.text = ""


_date = _Date()


def http_date() -> str:
    """Return the current time as an HTTP date (RFC 9110, 5.6.7)."""
    second = int(time.time())
    if second != _date.second:
        _date.second, _date.text = second, formatdate(second, usegmt=True)
    return _date.text
