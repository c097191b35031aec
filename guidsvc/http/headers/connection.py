"""The header `Connection` (RFC 9110, 7.6.1): whether it ends the connection."""


def has_close(value: str) -> bool:
    """Whether the options of a connection include `close`, which takes precedence over `keep-alive` (RFC 9112, 9.3)."""
    return any(option.strip().lower() == "close" for option in value.split(","))
