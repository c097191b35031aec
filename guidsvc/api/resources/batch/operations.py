"""Operations of a batch as they were sent: reading them, and what they may do."""

from collections.abc import Sequence
from typing import NamedTuple

from guidsvc.api.parsing import body
from guidsvc.api.resources.batch.stored_error import detached
from guidsvc.domain.bulk.plain_puts import read_plain_puts
from guidsvc.domain.commands import BatchOperation
from guidsvc.errors import InvalidRequest
from guidsvc.http.errors import TooLarge
from guidsvc.http.ndjson import Line


class ParsedOperation(NamedTuple):
    """A parsed operation, or the error about it; and its line number in a batch of lines."""

    operation: BatchOperation | Exception
    line: int | None = None


def read_value(value: object) -> ParsedOperation:
    """Parse an operation from a JSON value."""
    try:
        return ParsedOperation(body.validate(value, BatchOperation, {}))
    except InvalidRequest as error:
        return ParsedOperation(detached(error))


def read_values(values: Sequence[object]) -> list[ParsedOperation]:
    """Parse operations from JSON values."""
    puts = read_plain_puts(values)
    return list(map(read_value, values)) if puts is None else list(map(ParsedOperation, puts))


def is_repeatable(value: object) -> bool:
    """Whether an operation is safe to repeat: it only reads, or creates under a generated GUID."""
    return isinstance(value, dict) and (value.get("op") == "get" or "guid" not in value)


def is_creation(value: object) -> bool:
    """Whether an operation creates a record under a generated GUID."""
    return isinstance(value, dict) and value.get("op", "put") == "put" and "guid" not in value


def is_change(value: object) -> bool:
    """Whether an operation may change something."""
    changes = ("put", "delete", "renew")  # not a set: op may be unhashable
    return isinstance(value, dict) and value.get("op", "put") in changes


def read_line(line: Line) -> ParsedOperation:
    """Parse an operation from a line of JSON."""
    if line.text is None:
        return ParsedOperation(
            TooLarge(f"Line {line.number} is too long: a line has at most {body.MAX_BYTES} bytes."), line.number
        )
    try:
        return ParsedOperation(body.parse(line.text, BatchOperation, {}), line.number)
    except InvalidRequest as error:
        return ParsedOperation(detached(error), line.number)
