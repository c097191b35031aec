"""Reasons of driver errors for logs: codes and messages, without document contents.

The driver quotes the server's reply, and documents that were sent, in the text of an error.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError

MAX_REASONS, MAX_CHARACTERS = 4, 300
"""Maximum number of distinct reasons of a bulk write, and maximum length of a reason."""
_QUOTES = re.compile(r",? \(?(?:Timeout: |full error: |configured timeouts: |dup key: )")
"""Precedes the topology, the server's reply, or the values of a key."""
_INTERRUPTED = "operation cancelled"
"""What the driver says when its heartbeat has had no answer, so it has closed the connections to the server."""


def reason_of(error: PyMongoError) -> str:
    """Return the code and the message of an error, without the documents, topology or reply that it quotes."""
    if isinstance(error, BulkWriteError):
        return _bulk_reasons([*error.details.get("writeErrors", ()), *error.details.get("writeConcernErrors", ())])
    reason = _shortened(str(error))
    if reason == _INTERRUPTED:
        return "connection closed by the driver, because the server does not answer its heartbeat"
    if isinstance(error, OperationFailure) and error.code is not None:
        return f"{reason} (code {error.code})"
    return reason


def _bulk_reasons(faults: Iterable[Mapping[str, Any]]) -> str:
    named = {f"{_shortened(str(fault.get('errmsg')))} (code {fault.get('code')})": None for fault in faults}
    more = f"; and {len(named) - MAX_REASONS} more" if len(named) > MAX_REASONS else ""
    return f"a bulk write failed in part: {'; '.join(list(named)[:MAX_REASONS])}{more}"


def _shortened(message: str) -> str:
    return _QUOTES.split(message, maxsplit=1)[0][:MAX_CHARACTERS]
