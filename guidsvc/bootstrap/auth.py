"""Access control by the settings: whether it is on, and the authenticator with its dependencies."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

from guidsvc.auth.audit_log import OFF, STDERR
from guidsvc.auth.authenticator import Authenticator, DenialAudit
from guidsvc.auth.fixed_window import Counters, Limit, SharedLimit
from guidsvc.auth.lockout import LoginLockout
from guidsvc.auth.rate_limit import RateLimits
from guidsvc.auth.tokens.jwks_client import fetch
from guidsvc.auth.tokens.jwt_bearer import JwtTrustPolicy, JwtVerifier, open_jwt_verifier
from guidsvc.cache import is_private
from guidsvc.config import Settings, split_list
from guidsvc.errors import StartError
from guidsvc.optional_imports import requires_extra
from guidsvc.program import command_line
from guidsvc.runtime.clock import Clock
from guidsvc.store.contract import ApiKeyRepository
from guidsvc.telemetry.state_metrics import KeySetMetrics

TOKEN_SETTINGS = ("jwt_issuer", "jwt_audience", "jwt_owner_claim", "jwt_shared_owners", "jwt_require_at_jwt")
"""Settings that have no effect without `jwt_jwks`."""
ACCESS_SETTINGS = ("rate_limit", "login_limit", "jwt_jwks", *TOKEN_SETTINGS)
"""Settings that have no effect without access control."""


def refuse_unguarded(settings: Settings) -> None:
    """Raise StartError if settings of access control are set, but `access` is not.

    An operator who sets a limit or an issuer expects it to apply. A service that ignored it would be open unnoticed.
    """
    if settings.access is not None or is_controlled(settings):
        return
    changed = [name for name in ACCESS_SETTINGS if getattr(settings, name) != Settings.model_fields[name].default]
    if changed:
        has, them = ("has", "it") if len(changed) == 1 else ("have", "them")
        raise StartError(
            f"{', '.join(changed)}: {has} no effect while access is off: use --access keys, or leave {them} out"
        )


@asynccontextmanager
async def open_authenticator(
    settings: Settings,
    keys: ApiKeyRepository,
    clock: Clock,
    denied: DenialAudit | None = None,
    *,
    key_set: KeySetMetrics,
) -> AsyncIterator[Authenticator | None]:
    """Open the authenticator, or yield None if access is not controlled. `denied` audits rejected callers."""
    if not is_controlled(settings):
        yield None
        return
    rate, failures = limit_of("rate_limit", settings.rate_limit), limit_of("login_limit", settings.login_limit)
    async with _counters(settings.cache_url) as counters:

        def shared(limit: Limit | None) -> SharedLimit | None:
            return None if limit is None else SharedLimit(limit, clock, counters, 1 / settings.workers)

        limits, lockout = RateLimits(shared(rate)), LoginLockout(shared(failures))
        async with _tokens(settings, clock, key_set) as tokens:
            authenticator = Authenticator(
                keys, clock=clock, limits=limits, lockout=lockout, tokens=tokens, on_denial=denied
            )
            try:
                yield authenticator
            finally:
                await authenticator.aclose()


@asynccontextmanager
async def _counters(cache_url: str) -> AsyncIterator[Counters | None]:
    """Open the counters that all processes share, or yield None if the cache is private to one process."""
    if is_private(cache_url):
        yield None
        return
    with requires_extra("redis", "cache_url"):
        from guidsvc.cache.redis.counters import open_counters
    async with open_counters(cache_url) as counters:
        yield counters


@asynccontextmanager
async def _tokens(settings: Settings, clock: Clock, key_set: KeySetMetrics) -> AsyncIterator[JwtVerifier | None]:
    """Open the JWT verifier, or yield None if the settings name no JWKS."""
    if not settings.jwt_jwks:
        yield None
        return
    policy = JwtTrustPolicy(
        settings.jwt_issuer,
        settings.jwt_audience,
        settings.jwt_owner_claim,
        requires_access_token=settings.jwt_require_at_jwt,
        shares_owners=settings.jwt_shared_owners,
    )
    async with open_jwt_verifier(settings.jwt_jwks, policy, fetch=fetch, clock=clock, meter=key_set) as tokens:
        yield tokens


def is_controlled(settings: Settings) -> bool:
    """Return whether access is controlled. Raise StartError if it is not set and other hosts can connect."""
    if settings.access is not None:
        return settings.access == "keys"
    if not is_local(settings):
        raise StartError(
            f"access: required, because other hosts can connect to {settings.host} (--host). Create a key "
            f"({command_line('keys', 'create', '--new-store', '--owner', 'NAME')}) and use --access keys, or use "
            "--access off to admit anyone"
        )
    return False


def audit_destination(settings: Settings) -> str:
    """Return where the audit log goes: a file, `stderr` or `off`."""
    return settings.audit_log or (STDERR if is_controlled(settings) else OFF)


def is_local(settings: Settings) -> bool:
    """Return whether only this host can connect: over a Unix socket or a loopback address."""
    return settings.unix_socket is not None or _is_loopback(settings.host)


def accepted_hosts(settings: Settings) -> list[str] | None:
    """Return the host names to accept besides loopback names, or None to accept every name.

    Names are checked if the settings list some, or if the service listens on loopback without access control: web pages
    in a browser on this host could reach it. They cannot reach a Unix socket. On a network, the service cannot know all
    of its names.
    """
    names = split_list(settings.hosts)
    is_on_loopback = settings.unix_socket is None and _is_loopback(settings.host)
    return names if names or (is_on_loopback and not is_controlled(settings)) else None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def limit_of(name: str, text: str) -> Limit | None:
    """Return the limit in a setting, or None for no limit. Raise StartError if it is invalid."""
    try:
        return Limit.parse(text)
    except ValueError as error:
        raise StartError(f"{name}: {error}") from error
