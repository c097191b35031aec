"""Bounded parser of list-valued headers (RFC 9110, 5.6.1)."""

import re
from collections.abc import Iterator
from itertools import islice

MOST = 32
"""Maximum number of elements read, including empty ones; the rest is ignored. Honest clients send fewer."""
MOST_BYTES = 1024
"""Maximum number of characters read; an element that ends beyond them is ignored."""

# A comma in a quoted string does not end an element. Possessive quantifiers keep the time linear.
_ELEMENT = re.compile(r'(?:[^,"]++|"(?:[^"\\]++|\\.?)*+"?+)*+(?:,|\Z)', re.DOTALL)


def elements(value: str) -> Iterator[str]:
    """Yield the non-empty elements of a list, up to the limits, without surrounding whitespace."""
    for match in islice(_ELEMENT.finditer(value, 0, MOST_BYTES + 1), MOST):
        if match.end() > MOST_BYTES:  # the element may be truncated
            return
        element = match[0].removesuffix(",").strip()
        if element:
            yield element
