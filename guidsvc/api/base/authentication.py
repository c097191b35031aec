"""Authentication and scope check, run in `prepare()` before the handler method."""

from collections.abc import Awaitable
from typing import ClassVar

from tornado.web import RequestHandler

from guidsvc.api.base.application import ApiApplication
from guidsvc.api.contract.operation import needs_of
from guidsvc.api.execution.context import ApiContext
from guidsvc.auth.authenticator import Authenticator, Session
from guidsvc.domain.caller import ANYONE, Caller, Needs
from guidsvc.runtime import cancel_scope as errand


class AuthenticatedHandler(RequestHandler):
    """A handler that authenticates and authorizes its caller."""

    application: ApiApplication
    caller: Caller = ANYONE
    """The caller; ANYONE until authenticated."""
    login: Session | None = None
    """The caller's session, or None where access control is off."""
    confirms_after_body: ClassVar[bool] = True
    """Whether the session is confirmed again before the method runs: a body may arrive much later than the head."""

    @property
    def context(self) -> ApiContext:
        """What all requests share."""
        return self.application.context

    def needs(self) -> Needs | None:
        """Return the access that the request requires, or None if it is public."""
        return needs_of(getattr(self, str(self.request.method).lower()))

    def authenticate(self) -> Awaitable[None] | None:
        """Authenticate and authorize the caller. Return an awaitable if the session is not cached."""
        guard = self.context.authenticator
        needs = self.needs()
        if guard is None or needs is None:
            return None
        authorization = self.request.headers.get("Authorization")
        login = guard.cached_session(authorization)
        if login is None:
            return self._log_in(guard, authorization, needs)
        self._authorize(login, needs)
        return None

    async def _log_in(self, guard: Authenticator, authorization: str | None, needs: Needs) -> None:
        """Authenticate without an admission slot: authenticated callers must not wait for this request."""
        self.release_slot()
        self._authorize(await guard.authenticate(authorization, str(self.request.remote_ip)), needs)

    def release_slot(self) -> None:
        """Release the admission slot that the connection took; the request must wait for something else first."""
        taken = errand.CURRENT.get()
        if taken is not None:
            self.context.admission.release(taken)

    def _authorize(self, login: Session, needs: Needs) -> None:
        self.login, self.caller = login, login.caller
        self.require_scope(needs)
        headers = self.request.headers
        # A GET may have a body, too.
        has_body = headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers
        if self.confirms_after_body and has_body:
            self._confirm_first(str(self.request.method).lower())

    def _confirm_first(self, name: str) -> None:
        """Wrap the method, which Tornado calls once the body has arrived, so that the session is confirmed first."""
        method = getattr(self, name)

        async def confirmed(*arguments: str) -> None:
            await self.confirm()
            answered = method(*arguments)
            if answered is not None:
                await answered

        setattr(self, name, confirmed)

    async def confirm(self) -> None:
        """Raise Unauthorized if the caller's key or token has ended or its rights have changed."""
        guard = self.context.authenticator
        if guard is not None and self.login is not None and not self.login.usable():
            await guard.confirm(self.login)

    def require_scope(self, needs: Needs) -> None:
        """Raise Forbidden if the caller lacks the required access."""
        if self.login is not None:
            self.login.require_scope(needs)
