"""The parser of replies of Redis: that of redis-py and hiredis, with bounds on what a reply announces and takes.

hiredis reserves memory for all items of an array once it has read their number. One damaged reply of 13 bytes would
take 8 GB, and each run of the garbage collector would visit all of it.
"""

import re
from typing import Any

import hiredis
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.asyncio.connection import DefaultParser
from redis.exceptions import InvalidResponse

_TOO_LARGE = re.compile(rb"[*%~>|]\d{6,}\r\n|[$=!]\d{7,}\r\n")
"""The start of an array or a map of 100,000 items or more, or of a text of a million bytes or more. No reply has more
items than `guidsvc.cache.redis.link.PIPELINE`, and a text is at most a record. Texts in replies never match: the JSON
of a record has no raw line break, and INFO never has such a sign, then digits, then a line break."""
MAX_BYTES = 4 * 1024 * 1024
"""Maximum size of a reply that is incomplete: many times that of any reply."""
_START_BYTES = 32
"""More bytes than such a start has. So many bytes of the previous data are searched again: they may end within one."""


class _BoundedReader(hiredis.Reader):
    _end = b""
    """The last bytes fed."""

    def feed(self, data: bytes) -> None:  # type: ignore[override]  # the parser passes no other arguments
        if _TOO_LARGE.search(data) or _TOO_LARGE.search(self._end + data[:_START_BYTES]):
            raise InvalidResponse("the reply announces too much")
        if self.len() > MAX_BYTES:
            raise InvalidResponse("the reply is too large")
        self._end = data[-_START_BYTES:]
        super().feed(data)


class BoundedParser(DefaultParser):  # type: ignore[misc,valid-type]  # a variable of redis-py
    """The parser of hiredis. InvalidResponse if a reply is too large, or announces to be."""

    @property
    def has_unread(self) -> bool:
        """Whether something has arrived that no command has read: it would be taken as the reply to the next one."""
        return bool(self._reader.has_data() or self._stream._buffer)  # noqa: SLF001  # asyncio has no public attribute

    def on_connect(self, connection: Any) -> None:
        """Prepare for the replies of a new connection."""
        super().on_connect(connection)
        self._reader = _BoundedReader(
            protocolError=InvalidResponse, replyError=self.parse_error, notEnoughData=NOT_ENOUGH_DATA
        )
