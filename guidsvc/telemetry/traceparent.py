"""The header `traceparent` (W3C Trace Context), in which a client sends its own trace.

It is parsed here to decide whether a request is sampled. Only the trace of one that is sampled needs the library.
"""

import re

_MAX_CHARACTERS = 512
_HEADER = re.compile(
    r"[ \t]*(?!ff|00-.{52}-)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(?:-.*|[ \t]*)"
)
"""Version, trace, span and flags; in later versions than 00, more may follow."""


Parent = tuple[str, bool]
"""The trace of a client, as 32 hexadecimal digits, and whether the client samples it. A NamedTuple costs a call."""


def parse(header: str) -> Parent | None:
    """Return the client's trace, or None if the header is invalid; then it is to be ignored."""
    match = _HEADER.fullmatch(header) if len(header) <= _MAX_CHARACTERS else None
    return None if match is None else (match[1], bool(int(match[2], 16) & 1))
