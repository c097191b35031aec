"""Parser of the Prefer header (RFC 7240)."""

import re

from guidsvc.http.headers.lists import elements

# A name and an optional value, quoted or not. Possessive quantifiers prevent backtracking.
_PREFERENCE = re.compile(
    r"""
    ([!#$%&'*+.^_`|~0-9A-Za-z-]++) [ \t]*+
    (?: = [ \t]*+ (?: "([^"]*+)" | ([^",;\ \t]*+) ) [ \t]*+ )?+
    (?: ; | \Z )
    """,
    re.VERBOSE,
)


def parse(prefer: str | None) -> dict[str, str]:
    """Return the preferences by name, in lower case; the first of a name counts.

    Malformed elements are skipped: clients may send what this server does not know. Parameters are ignored.
    """
    preferences: dict[str, str] = {}
    for element in elements(prefer or ""):
        match = _PREFERENCE.match(element)
        if match is not None:
            preferences.setdefault(match[1].lower(), (match[2] or match[3] or "").lower())
    return preferences
