"""Remedies of the service, which are worded for HTTP, reworded with the options and commands of the command line."""

import re

from guidsvc.program import runnable

_WORDS = (
    (r'renew it with "revive": true and a "ttl"', "renew it with --revive and --ttl"),
    (r'renew it with "revive": true', "renew it with --revive"),
    (r"renew it with POST /guid/(\w+)/renewal", "renew it with `{program} renew \\1`"),
    (r"leave If-None-Match out to update it", "leave --new out to update it"),
    (r'send If-Match: "(\d+)"', "use --if-match \\1"),
    (r'renew it with If-Match: "(\d+)"', "renew it with --if-match \\1"),
    (r"send If-Match with the version to change, or with \*", "use --if-match with the version to change, or with *"),
    (r"`user` is required( to create a GUID)?, as in \{[^}]*\}", "`user` is required\\1; add --user NAME"),
    (r"PUT a body such as \{[^}]*\} to its path", "`{program} put GUID --user NAME`"),
    (r"If that PUT gets 404 too", "If that fails, too"),
    (r'PUT(?: it,)? or PATCH it with a future "expire"', "use `{program} patch GUID --expire WHEN` with a future time"),
    (r"To acquire it again, PUT it\.", "To acquire it again, use `{program} put`."),
    (r"; send a key as Authorization: Bearer gs_\.\.\. To create one,", ". To create a key,"),
)
_PATTERNS = tuple((re.compile(pattern), words.replace("{program}", runnable())) for pattern, words in _WORDS)


def spoken(detail: str) -> str:
    """Return the detail of a problem with its remedy on the command line."""
    for pattern, words in _PATTERNS:
        detail = pattern.sub(words, detail)
    return detail
