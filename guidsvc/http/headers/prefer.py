"""Preferences of a request (RFC 7240), from the header Prefer."""

import re

from guidsvc.http.headers.lists import elements

# A name, and its value, quoted or not. The quantifiers are possessive, so that an element is read once.
_PREFERENCE = re.compile(
    r"""
    ([!#$%&'*+.^_`|~0-9A-Za-z-]++) [ \t]*+
    (?: = [ \t]*+ (?: "([^"]*+)" | ([^",;\ \t]*+) ) [ \t]*+ )?+
    (?: ; | \Z )
    """,
    re.VERBOSE,
)


def parse(prefer: str | None) -> dict[str, str]:
    """Return the preferences of the header Prefer by name, in lower case; the first of a name counts.

    Skip an element that is no preference: a client may send what this server does not know. Parameters are ignored.
    """
    preferences: dict[str, str] = {}
    for element in elements(prefer or ""):
        found = _PREFERENCE.match(element)
        if found is not None:
            preferences.setdefault(found[1].lower(), (found[2] or found[3] or "").lower())
    return preferences
