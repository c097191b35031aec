"""Conversion of driver errors to errors of the store."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from pymongo.errors import (
    BulkWriteError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteConcernError,
)

from guidsvc.errors import GuidsvcError, OutcomeUnknown, StoreUnavailable
from guidsvc.store.mongo.error_reason import reason_of

_log = structlog.get_logger(__name__)


@contextmanager
def read_failures() -> Iterator[None]:
    """Convert errors of reads in the block to StoreUnavailable."""
    try:
        yield
    except PyMongoError as error:
        raise StoreUnavailable(_reason(error)) from error


@contextmanager
def write_failures() -> Iterator[None]:
    """Convert errors of writes in the block to StoreUnavailable or OutcomeUnknown."""
    try:
        yield
    except PyMongoError as error:
        raise write_failure(error) from error


def write_failure(error: PyMongoError) -> GuidsvcError:
    """Convert an error of a write: StoreUnavailable only if the write was certainly not done.

    Without a free connection in time (WaitQueueTimeoutError) the outcome is unknown: the driver also raises that if its
    retry found none, although the first attempt may have been executed.
    """
    if isinstance(error, BulkWriteError):  # many writes: distinguishing their outcomes is not worth it
        return OutcomeUnknown(_reason(error))
    never_sent = isinstance(error, ServerSelectionTimeoutError)
    refused = isinstance(error, OperationFailure) and not isinstance(error, WriteConcernError) and not error.timeout
    if never_sent or (refused and not error.has_error_label("RetryableWriteError")):
        return StoreUnavailable(_reason(error))
    return OutcomeUnknown(_reason(error))


def _reason(error: PyMongoError) -> str:
    """Return the short reason of an error. The text of a connection error describes the cluster: on debug only."""
    if not isinstance(error, OperationFailure):  # whose text quotes documents
        _log.debug("mongodb connection failed", error=str(error))
    return f"MongoDB: {reason_of(error)}"
