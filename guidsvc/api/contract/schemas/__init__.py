"""Schemas of response bodies and batches, for the OpenAPI document.

Handlers do not use these models to render responses; tests validate the responses against them.
"""

from guidsvc.api.contract.schemas.batches import Batch, BatchResults, Operation, Result
from guidsvc.api.contract.schemas.events import Event, EventPage
from guidsvc.api.contract.schemas.keys import IssuedKey, Key, KeyPage, OwnKey, QuotaUsed, RateLeft
from guidsvc.api.contract.schemas.leases import Renewal, RenewalRequest
from guidsvc.api.contract.schemas.problems import (
    PROBLEMS,
    AnyProblem,
    Conflicting,
    Explanation,
    Fault,
    Faulty,
    Gone,
    Limited,
    Outdated,
    Problem,
    ProblemList,
    ProblemSummary,
    TooSoon,
    Unready,
)
from guidsvc.api.contract.schemas.records import Change, Creation, GuidRecord, Page, Patch
from guidsvc.api.contract.schemas.service import (
    Document,
    ExpiringCounts,
    Live,
    Readiness,
    Root,
    ServiceVersion,
    Statistics,
)

__all__ = [
    "PROBLEMS",
    "AnyProblem",
    "Batch",
    "BatchResults",
    "Change",
    "Conflicting",
    "Creation",
    "Document",
    "Event",
    "EventPage",
    "ExpiringCounts",
    "Explanation",
    "Fault",
    "Faulty",
    "Gone",
    "GuidRecord",
    "IssuedKey",
    "Key",
    "KeyPage",
    "Limited",
    "Live",
    "Operation",
    "Outdated",
    "OwnKey",
    "Page",
    "Patch",
    "Problem",
    "ProblemList",
    "ProblemSummary",
    "QuotaUsed",
    "RateLeft",
    "Readiness",
    "Renewal",
    "RenewalRequest",
    "Result",
    "Root",
    "ServiceVersion",
    "Statistics",
    "TooSoon",
    "Unready",
]
