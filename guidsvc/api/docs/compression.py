"""Compression of static content, once for each content.

Only content that is the same for every client is compressed. Responses with records or keys are not: an attacker who
writes into a response and sees its length could guess what else it contains (BREACH), and a list of 1 MiB would block
the event loop for 15 milliseconds.
"""

import gzip
from functools import partial

from guidsvc.runtime.background import SingleFlight, in_thread

MIN_BYTES = 1024
"""Smaller content is not compressed: it fits into one packet anyway."""
_LEVEL = 6  # Swagger UI takes 50 milliseconds; level 9 takes four times as long and saves less than 1 %
_MAX_CONTENTS = 128
"""Maximum number of cached compressed contents. There are fewer; each has at most 0.5 MB."""
_compressed: dict[str, bytes] = {}
_flights: dict[str, SingleFlight[bytes]] = {}  # of what is being compressed


async def compressed(etag: str, content: bytes) -> bytes:
    """Return content with this entity tag, compressed in a thread, once for all requests, even if one is cancelled."""
    found = _compressed.get(etag)
    if found is not None:
        return found
    flight = _flights.get(etag)
    if flight is None:
        flight = _flights[etag] = SingleFlight(partial(_compress, etag, content))
    return await flight.run()


async def _compress(etag: str, content: bytes) -> bytes:
    try:
        compressed_content = await in_thread(gzip.compress, content, _LEVEL, mtime=0)
        if len(_compressed) < _MAX_CONTENTS:
            _compressed[etag] = compressed_content
        return compressed_content
    finally:
        del _flights[etag]


def etag_of_compressed(etag: str) -> str:
    """Return the entity tag of compressed content: it must differ from that of the content itself (RFC 9110, 8.8.3)."""
    return f'{etag[:-1]}-gzip"'
