"""Receipts: the stored state of requests with an Idempotency-Key."""

from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from guidsvc.domain.record import Milliseconds, Time


class Receipt(BaseModel):
    """The stored state of a request with an idempotency key: its lease, and its answer once it is done.

    `key` and `fingerprint` are digests in hexadecimal; `attempt` rises with every change of it; `leased_until` and
    `claimed` are Unix milliseconds, `purge_at` Unix seconds; `seed` is what all that is random in it is drawn from.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    key: str
    fingerprint: str
    attempt: Annotated[int, Field(ge=1)]
    leased_until: Milliseconds
    seed: Annotated[str, Field(pattern=r"\A[0-9a-f]{32}\z")]
    claimed: Milliseconds
    answer: str | None = None
    purge_at: Time


SMALL_ANSWER_BYTES, PAGE_BYTES = 700, 4096
"""A row with an answer of up to this size shares a page of the SQLite file. A larger one takes pages of its own."""


def stored_size(answer_bytes: int) -> int:
    """Return the bytes of a store that an answer takes: from SMALL_ANSWER_BYTES on, whole pages."""
    return answer_bytes if answer_bytes <= SMALL_ANSWER_BYTES else -(-answer_bytes // PAGE_BYTES) * PAGE_BYTES


class ReceiptUsage(NamedTuple):
    """The storage used by receipts: their number, and the total of the `stored_size` of their answers."""

    number: int
    answer_bytes: int
