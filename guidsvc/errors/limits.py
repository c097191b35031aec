"""Errors of limits: of an owner, a caller or a request."""

from collections.abc import Mapping
from types import MappingProxyType

from guidsvc.errors.base import GuidsvcError
from guidsvc.errors.plurals import counted


class QuotaExceeded(GuidsvcError):
    """The owner has reached its quota of live GUIDs, or, with `stored_limit`, of stored GUIDs, live or expired."""

    def __init__(self, quota: int, *, stored_limit: int | None = None) -> None:
        super().__init__(
            f"The owner has {counted(quota, 'live GUID')}, which is its quota; delete some, or wait until some expire."
            if stored_limit is None
            else f"The owner has {stored_limit} stored GUIDs, live or expired, which is its limit; delete some."
        )
        self.quota = quota


class RateLimited(GuidsvcError):
    """The caller has exceeded a rate limit. `retry_after` is the time until the next attempt, in seconds, at least 1.

    `limit_headers` maps header names to values that describe the limit.
    """

    def __init__(self, detail: str, retry_after: int, limit_headers: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__(detail)
        self.retry_after = retry_after
        self.limit_headers = limit_headers


class ReceiptsFull(GuidsvcError):
    """The storage for idempotency receipts is full. Nothing was done.

    The detail names no limit: it depends on what all owners use, which would show the size of their responses.
    """

    def __init__(self) -> None:
        super().__init__(
            "The answers to requests with an Idempotency-Key, stored for 24 hours, have reached their limit in bytes. "
            "Nothing was done; send the request without the key, use PUT with your own GUID, or retry later."
        )


class SpaceUsed(GuidsvcError):
    """The temporary files of one request have reached their size limit."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"The temporary files of the batch have reached their limit of {most} bytes. This operation was not done; "
            "send it, and those after it, in another batch."
        )
