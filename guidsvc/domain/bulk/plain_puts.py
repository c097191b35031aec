"""Puts of a batch that have only members of a record, validated together: a fifth of the time of a model for each.

What is not plain, or not valid, is left to the validation of `BatchOperation`, which reports every fault.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, FailFast, Field, TypeAdapter
from typing_extensions import TypedDict

from guidsvc.domain.bulk.construction import construct
from guidsvc.domain.commands import BatchOperation
from guidsvc.domain.record import MAX_TIME, TIME_PATTERN, Guid, StoredUser, parse_expire, render_metadata

_DEFAULTS = {name: field.default for name, field in BatchOperation.model_fields.items()}


class _PlainPut(TypedDict, total=False):
    """A put without other members. Each rule accepts what that of `BatchOperation` accepts, or less."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]  # as pydantic documents it

    op: Literal["put"]
    guid: Guid
    user: StoredUser
    expire: Annotated[int, Field(ge=0, le=MAX_TIME)] | Annotated[str, Field(pattern=TIME_PATTERN)]
    metadata: dict[str, Any]


@cache
def _validator() -> Callable[[object], list[dict[str, Any]]]:
    adapter: TypeAdapter[list[_PlainPut]] = TypeAdapter(Annotated[list[_PlainPut], FailFast()])
    return adapter.validator.validate_python


def read_plain_puts(values: Sequence[object]) -> list[BatchOperation] | None:
    """Parse JSON values as operations; None if one of them is not a plain put, or not valid."""
    try:
        puts = _validator()(values)
        for put in puts:
            if "expire" in put:
                put["expire"] = parse_expire(put["expire"])
            if "metadata" in put:
                put["metadata"] = render_metadata(put["metadata"])
    except ValueError:
        return None
    return construct(BatchOperation, [_DEFAULTS | put for put in puts], map(set, puts))
