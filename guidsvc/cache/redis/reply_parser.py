"""The parser of replies of Redis: that of redis-py and hiredis, with a bound on what a reply announces.

hiredis reserves memory for all items of an array once it has read their number. One damaged reply of 13 bytes would
take 8 GB, and each run of the garbage collector would visit all of it.
"""

import re
from typing import Any

import hiredis
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.asyncio.connection import DefaultParser
from redis.exceptions import InvalidResponse

_TOO_MANY_ITEMS = re.compile(rb"[*%~>|]\d{6,}\r\n")
"""The start of an array or a map of 100,000 items or more. No reply has more than `guidsvc.cache.redis.link.PIPELINE`.
Texts in replies never match: the JSON of a record has no raw line break, and INFO has none of these signs."""
_START_BYTES = 32
"""More than such a start takes."""


class _BoundedReader(hiredis.Reader):
    _end = b""
    """The last bytes fed."""

    def feed(self, data: bytes) -> None:  # type: ignore[override]  # the parser passes no other arguments
        if _TOO_MANY_ITEMS.search(data) or _TOO_MANY_ITEMS.search(self._end + data[:_START_BYTES]):
            raise InvalidResponse("the reply announces too many items")
        self._end = data[-_START_BYTES:]
        super().feed(data)


class BoundedParser(DefaultParser):  # type: ignore[misc,valid-type]  # a variable of redis-py
    """The parser of hiredis. InvalidResponse if an array is announced to have 100,000 items or more."""

    def on_connect(self, connection: Any) -> None:
        """Prepare for the replies of a new connection."""
        super().on_connect(connection)
        self._reader = _BoundedReader(
            protocolError=InvalidResponse, replyError=self.parse_error, notEnoughData=NOT_ENOUGH_DATA
        )
