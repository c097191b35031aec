"""The address under which clients reach the service, from the settings.

The service cannot know this address by itself: a proxy may change the host name, the scheme and the path, and clients
choose the header Host.
"""

import re

from guidsvc.errors import StartError

MAX_CHARACTERS = 100
"""Maximum length of the address. It is part of every error, also of those in the brief results of a batch."""
_PUBLIC_URL = re.compile(
    r"https?://(?:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?(?:/[a-z0-9._~-]+)*", re.IGNORECASE
)


def parse(text: str) -> str:
    """Return the address without a slash at its end, or an empty string if none is set; StartError if it is invalid."""
    url = text.removesuffix("/")
    if url and (len(url) > MAX_CHARACTERS or _PUBLIC_URL.fullmatch(url) is None):
        raise StartError(
            "public_url: this is not the address of a service; write a scheme, a host, and optionally a port and a "
            f"path, at most {MAX_CHARACTERS} characters: https://registry.example"
        )
    return url
