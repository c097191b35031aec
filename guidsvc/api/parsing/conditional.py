"""Parsing of preconditions (RFC 9110, 13.1): If-Match and If-None-Match, as headers or members of an operation."""

import re
from collections.abc import Callable, Mapping

from guidsvc.domain.commands import BatchOperation
from guidsvc.domain.preconditions import ANY, UNCONDITIONAL, Conditions
from guidsvc.errors import InvalidField, InvalidRequest

_TAG = r'(W/)?"([\x21\x23-\x7e\x80-\xff]*+)"'
_ITEM = rf"[ \t]*+(?:{_TAG}[ \t]*+)?+"
# One match validates the whole list. Possessive quantifiers never backtrack, so the time is linear in its length.
_LIST = re.compile(rf"{_ITEM}(?:,{_ITEM})*+")
_TAGS = re.compile(_TAG)

MAX_TAGS = 100
_WRONG = 'must be * or a list of entity tags in double quotes, such as "1795420608123"'
_BARE_VERSION = re.compile(r"'?([0-9]{1,20})'?")


def parse(headers: Mapping[str, str]) -> Conditions:
    """Parse the preconditions in request headers; InvalidRequest if one is malformed."""
    if_match, if_none_match = headers.get("If-Match"), headers.get("If-None-Match")
    if if_match is if_none_match is None:
        return UNCONDITIONAL
    return _conditions(if_match, if_none_match, lambda name, detail: InvalidField("", detail, header=name))


def are_in(operation: BatchOperation) -> bool:
    """Whether an operation in a batch has preconditions."""
    return operation.if_match is not None or operation.if_none_match is not None


def of_operation(operation: BatchOperation) -> Conditions:
    """Parse the preconditions of an operation in a batch; InvalidRequest if one is malformed."""
    if operation.if_match is operation.if_none_match is None:  # `are_in`, without a call
        return UNCONDITIONAL
    pointers = {"If-Match": "/if_match", "If-None-Match": "/if_none_match"}
    return _conditions(
        operation.if_match, operation.if_none_match, lambda name, detail: InvalidField(pointers[name], detail)
    )


def _conditions(
    if_match: str | None, if_none_match: str | None, fault: Callable[[str, str], InvalidField]
) -> Conditions:
    """Parse both. If-Match uses strong comparison, in which a weak tag never matches; If-None-Match uses weak.

    `fault` makes the error of a header from its name and the detail.
    """
    return Conditions(
        if_match=None if if_match is None else _tags(if_match, "If-Match", fault, weak=False),
        if_none_match=None if if_none_match is None else _tags(if_none_match, "If-None-Match", fault, weak=True),
    )


def _tags(value: str, name: str, fault: Callable[[str, str], InvalidField], *, weak: bool) -> frozenset[str]:
    if value.strip() == "*":
        return ANY
    if value.count(",") >= MAX_TAGS:
        raise InvalidRequest(fault(name, f"may list at most {MAX_TAGS} entity tags"))
    tags = _TAGS.findall(value) if _LIST.fullmatch(value) is not None else []
    if not tags:
        bare = _BARE_VERSION.fullmatch(value.strip())
        raise InvalidRequest(
            fault(name, _WRONG if bare is None else f'must have double quotes around the version: "{bare[1]}"')
        )
    return frozenset([tag for weak_mark, tag in tags if weak or not weak_mark])
