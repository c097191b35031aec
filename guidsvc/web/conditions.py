"""Reading preconditions (RFC 9110, 13.1): from the headers If-Match and If-None-Match to conditions on a record."""

import re

from tornado.httputil import HTTPHeaders

from guidsvc.errors import Fault, InvalidRequest
from guidsvc.rules import ANY, Conditions

# The quantifiers are possessive: no header can make them try again and again.
_ITEM = re.compile(r'[ \t]*+(?:(W/)?"([\x21\x23-\x7e\x80-\xff]*+)"[ \t]*+)?+(?:,|\Z)')


def parse(headers: HTTPHeaders) -> Conditions:
    """Return the conditions that the headers of a request make; InvalidRequest if one of them is no list of tags.

    If-Match compares strongly, so a weak tag never matches there; If-None-Match compares weakly.
    """
    return Conditions(
        if_match=_tags(headers, "If-Match", weak=False), if_none_match=_tags(headers, "If-None-Match", weak=True)
    )


def _tags(headers: HTTPHeaders, name: str, *, weak: bool) -> frozenset[str] | None:
    value = headers.get(name)
    if value is None:
        return None
    if value.strip() == "*":
        return ANY
    found, place = [], 0
    while place < len(value):
        item = _ITEM.match(value, place)
        if item is None:
            raise _no_list(name)
        found += [item] if item[2] is not None else []
        place = item.end()
    if not found:
        raise _no_list(name)
    return frozenset(item[2] for item in found if weak or not item[1])


def _no_list(name: str) -> InvalidRequest:
    return InvalidRequest(Fault("", 'must be * or a list of entity tags in quotes, as "1795420608123"', header=name))
