"""Reading preferences (RFC 7240): what a client would like, if it can be had."""

import re

# The quantifiers are possessive: no header can make them try again and again.
_PREFERENCE = re.compile(
    r"""
    [ \t]*+ ([!#$%&'*+.^_`|~0-9A-Za-z-]++)                            # a name
    [ \t]*+ (?: = [ \t]*+ (?: "((?:[^"\\]|\\.)*+)" | ([^",;\ \t]*+) ) )?+  # its value, quoted or not
    (?: [^",] | "(?:[^"\\]|\\.)*+" )*+ (?:,|\Z)                       # parameters, which none of ours has
    """,
    re.VERBOSE,
)


def parse(prefer: str | None) -> dict[str, str]:
    """Return the preferences of a header Prefer by name, in lower case; of those with one name the first counts.

    What is no preference is passed over: a header that nobody has to honour is not worth an error.
    """
    preferences: dict[str, str] = {}
    place, header = 0, prefer or ""
    while place < len(header):
        found = _PREFERENCE.match(header, place)
        if found is None:
            place = (header.find(",", place) + 1) or len(header)
            continue
        preferences.setdefault(found[1].lower(), (found[2] or found[3] or "").lower())
        place = found.end()
    return preferences
