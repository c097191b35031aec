"""Reading the elements of a header that is a list (RFC 9110, 5.6.1), as many as an honest client sends."""

import re
from collections.abc import Iterator
from itertools import islice

MOST = 32
"""Elements, empty ones too, that are read; the rest is ignored."""
MOST_BYTES = 1024
"""What ends beyond these is ignored, too."""

# A comma in a quoted string ends no element. The quantifiers are possessive, so that the time is linear.
_ELEMENT = re.compile(r'(?:[^,"]++|"(?:[^"\\]++|\\.?)*+"?+)*+(?:,|\Z)', re.DOTALL)


def elements(value: str) -> Iterator[str]:
    """Yield the first elements of a list, without spaces around them."""
    for found in islice(_ELEMENT.finditer(value, 0, MOST_BYTES + 1), MOST):
        if found.end() > MOST_BYTES:  # it may go on
            return
        element = found[0].removesuffix(",").strip()
        if element:
            yield element
