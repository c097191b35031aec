"""Schemas of batches."""

from typing import Annotated

from pydantic import Field, create_model

from guidsvc.api.contract.schemas.fields import Schema, closed, optional
from guidsvc.api.contract.schemas.leases import Renewal
from guidsvc.api.contract.schemas.problems import AnyProblem
from guidsvc.api.contract.schemas.records import EXAMPLE_RECORD, GuidRecord
from guidsvc.domain.commands import MAX_OPERATIONS, BatchOperation
from guidsvc.domain.record import EXAMPLE, EXAMPLE_GUID, GUID_PATTERN

# Named for generated clients, like the bodies in `records`.
Operation = create_model("Operation", __base__=BatchOperation, __doc__=BatchOperation.__doc__)


class Batch(Schema):
    """Operations to execute. Those on the same GUID run in order."""

    model_config = closed({"operations": [{"user": EXAMPLE["user"]}]})

    operations: Annotated[list[Operation], Field(max_length=MAX_OPERATIONS)]  # type: ignore[valid-type]  # create_model returns a class


class Result(Schema):
    """The result of an operation: a record, or a problem."""

    model_config = closed({"status": 201, "guid": EXAMPLE_GUID, "etag": '"1795420608123"', "record": EXAMPLE_RECORD})

    status: Annotated[int, Field(description="The status that a separate request would have had.")]
    guid: Annotated[str, Field(pattern=GUID_PATTERN)] = optional(
        "The GUID of the record. With 504, the generated GUID of a record that may have been created."
    )
    etag: str = optional("The version of the record, as an entity tag.")
    record: GuidRecord = optional(
        "The current record. Absent if it does not fit into the response, or if a key without the scope `read` "
        "updated it."
    )
    renewal: Renewal = optional("The result of a `renew`.")
    problem: AnyProblem = optional("The problem, if the operation failed.")
    line: int = optional(
        "In a batch of lines, after 100 failures: the number of the failed line, from 1. `problem` is then absent."
    )


class BatchResults(Schema):
    """The results of the operations, in the same order."""

    model_config = closed({"results": [{"status": 204, "guid": EXAMPLE_GUID}]})

    results: list[Result]
