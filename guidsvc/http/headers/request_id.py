"""Request IDs for responses and logs: the client's if it is well-formed, else a generated one."""

import itertools
import os
import re
from collections.abc import Iterator

from guidsvc.http.credentials import CREDENTIAL

_SANE = re.compile(r"[A-Za-z0-9._-]{1,128}")


def request_id(client_id: str) -> str:
    """Return the given ID if it is well-formed and holds no API key or token, else a new one."""
    is_sane = _SANE.fullmatch(client_id) is not None and CREDENTIAL.search(client_id) is None
    return client_id if is_sane else new_request_id()


def _ids() -> Iterator[str]:
    """Yield IDs of 32 hexadecimal digits, unique across processes.

    They are not secret: they are sequential, so two of them reveal the number of requests in between. Random IDs, even
    256 per system call, take half as long again.
    """
    process, first = os.urandom(8).hex(), int.from_bytes(os.urandom(6), "big")
    ends = [f"{end:03x}" for end in range(16**3)]
    for block in itertools.count(first):
        start = f"{process}{block:013x}"
        for end in ends:
            yield start + end


new_request_id = _ids().__next__
"""Returns a new, unique request ID."""
