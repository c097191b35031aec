"""Conversion of driver errors to errors of the store."""

from collections.abc import Iterator
from contextlib import contextmanager

from pymongo.errors import (
    BulkWriteError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
)

from guidsvc.errors import GuidsvcError, OutcomeUnknown, StoreUnavailable
from guidsvc.store.mongo.error_reason import reason_of


@contextmanager
def read_failures() -> Iterator[None]:
    """Convert errors of reads in the block to StoreUnavailable."""
    try:
        yield
    except PyMongoError as error:
        raise StoreUnavailable(f"MongoDB: {reason_of(error)}") from error


@contextmanager
def write_failures() -> Iterator[None]:
    """Convert errors of writes in the block to StoreUnavailable or OutcomeUnknown."""
    try:
        yield
    except PyMongoError as error:
        raise write_failure(error) from error


def write_failure(error: PyMongoError) -> GuidsvcError:
    """Convert an error of a write: StoreUnavailable only if the write was certainly not done."""
    if isinstance(error, BulkWriteError):  # many writes: distinguishing their outcomes is not worth it
        return OutcomeUnknown(f"MongoDB: {reason_of(error)}")
    never_sent = isinstance(error, ServerSelectionTimeoutError | WaitQueueTimeoutError)
    refused = isinstance(error, OperationFailure) and not isinstance(error, WriteConcernError) and not error.timeout
    if never_sent or (refused and not error.has_error_label("RetryableWriteError")):
        return StoreUnavailable(f"MongoDB: {reason_of(error)}")
    return OutcomeUnknown(f"MongoDB: {reason_of(error)}")
