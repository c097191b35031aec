"""The startup banner."""

import guidsvc
from guidsvc.bootstrap.auth import is_controlled
from guidsvc.config import Settings
from guidsvc.connection_urls import redact


def banner(settings: Settings, port: int) -> str:
    """Return the startup message: address, store, cache, access, and a command to try."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # nosec B104  # not used to bind a socket
    host = everywhere.get(settings.host, settings.host)
    host = f"[{host}]" if ":" in host else host
    address = f"{'http' if settings.tls_cert is None else 'https'}://{host}:{port}"
    options = ""
    if settings.unix_socket is not None:
        address, options = f"{address.partition(':')[0]}://localhost", f" --unix-socket {settings.unix_socket}"
    controlled = is_controlled(settings)
    authorization = ' -H "Authorization: Bearer $KEY"' if controlled else ""
    return "\n".join(
        [
            f"guidsvc {guidsvc.__version__} at {settings.unix_socket or address}",
            f"  records  {redact(settings.store_url)}",
            f"  cache    {redact(settings.cache_url)}",
            f"  access   {'keys' if controlled else 'off'}",
            *([f"  workers  {settings.workers}"] if settings.workers > 1 else []),
            f"""  try      curl{options}{authorization} -X PUT -d '{{"user": "Cylance, Inc."}}' {address}/guid""",
        ]
    )


def print_banner(text: str) -> None:
    """Print a banner in one write: a log line of standard error could come between it and its line end."""
    print(f"{text}\n", end="", flush=True)
