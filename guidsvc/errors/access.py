"""Errors of access control and of API keys."""

from guidsvc.errors.base import GuidsvcError


class Unauthorized(GuidsvcError):
    """Credentials are missing, or `invalid`."""

    def __init__(self, detail: str, *, invalid: bool) -> None:
        super().__init__(detail)
        self.invalid = invalid


class Forbidden(GuidsvcError):
    """The caller lacks the `scope` that the operation requires. None means that no scope permits it."""

    def __init__(self, scope: str | None, detail: str | None = None) -> None:
        super().__init__(detail or f"The key lacks the scope {scope}.")
        self.scope = scope


class NoSuchKey(GuidsvcError):
    """Unknown API key. The message never repeats text that could be a complete key."""


class KeyNotActive(GuidsvcError):
    """The API key is no longer valid and cannot be changed. `state` says why."""

    def __init__(self, key_id: str, state: str) -> None:
        why = "was revoked" if state == "revoked" else "has expired"
        super().__init__(f"Key {key_id} {why} and cannot be rotated; create a new key.")
        self.state = state
