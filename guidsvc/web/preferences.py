"""Reading preferences (RFC 7240): what a client would like, if it can be had."""

import re

_MINIMAL = re.compile(r'(?:^|,)[ \t]*+return[ \t]*+=[ \t]*+("?)minimal\1[ \t]*+(?:[;,]|$)', re.IGNORECASE)


def wants_minimal(prefer: str | None) -> bool:
    """Whether the header Prefer asks for a reply without the representation: `return=minimal`."""
    return prefer is not None and _MINIMAL.search(prefer) is not None
