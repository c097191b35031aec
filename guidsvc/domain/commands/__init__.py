"""Commands and queries: models that validate request bodies and query strings.

This package knows no HTTP: `guidsvc.api` parses bytes and query strings into these models.
"""

from guidsvc.domain.commands.bodies import (
    MAX_OPERATIONS,
    MEMBERS,
    BatchOperation,
    CreateCommand,
    PatchCommand,
    PutCommand,
    WriteCommand,
)
from guidsvc.domain.commands.fields import optional_field, refuse_null
from guidsvc.domain.commands.queries import (
    DEFAULT_PAGE_SIZE,
    MAX_PAGE_SIZE,
    BatchQuery,
    Limit,
    ListQuery,
    NoQuery,
    ReadQuery,
    RecordQuery,
)
from guidsvc.domain.commands.renewal import RenewCommand

__all__ = [
    "DEFAULT_PAGE_SIZE",
    "MAX_OPERATIONS",
    "MAX_PAGE_SIZE",
    "MEMBERS",
    "BatchOperation",
    "BatchQuery",
    "CreateCommand",
    "Limit",
    "ListQuery",
    "NoQuery",
    "PatchCommand",
    "PutCommand",
    "ReadQuery",
    "RecordQuery",
    "RenewCommand",
    "WriteCommand",
    "optional_field",
    "refuse_null",
]
