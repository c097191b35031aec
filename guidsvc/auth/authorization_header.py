"""Messages about Authorization headers that are not Bearer and a key. They never repeat the credentials."""

MAX_HEADER_CHARACTERS = 8 * 1024
"""Maximum length of an Authorization header, in characters; a longer one is rejected."""
_OTHER_SCHEMES = frozenset({"apikey", "basic", "digest", "key", "negotiate", "token"})
_EXPECTED = "send Authorization: Bearer gs_..."


def explain(authorization: str) -> str:
    """Return why the header is not `Bearer` and a key, and what to send."""
    if len(authorization) > MAX_HEADER_CHARACTERS:
        return f"The Authorization header has over {MAX_HEADER_CHARACTERS} characters; {_EXPECTED}"
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower().startswith("bearer"):
        return f"The Authorization header must be Bearer, a space and a key; {_EXPECTED}"
    if scheme.lower() in _OTHER_SCHEMES and credentials:
        return f"The authentication scheme {scheme.capitalize()} is not supported; {_EXPECTED}"
    if scheme.startswith("gs_"):
        return f"The key in the Authorization header lacks the scheme Bearer; {_EXPECTED}"
    return f"The Authorization header must be Bearer and a key; {_EXPECTED}"
