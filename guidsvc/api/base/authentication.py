"""Who asks is let in, or is not, before a handler has begun with what they ask for."""

from collections.abc import Awaitable
from typing import ClassVar

from tornado.web import RequestHandler

from guidsvc.api.contract.operation import needs_of
from guidsvc.auth.authenticator import Authenticator, Session
from guidsvc.domain.caller import ANYONE, Caller, Needs
from guidsvc.runtime import cancel_scope as errand


class AuthenticatedHandler(RequestHandler):
    """A handler that knows who asks, and that they may."""

    caller: Caller = ANYONE
    """Who asks."""
    login: Session | None = None
    """As they have shown, where access is controlled."""
    confirms_after_body: ClassVar[bool] = True
    """Whether the authority of the caller is confirmed again before the method runs: its body may come much later."""

    def needs(self) -> Needs | None:
        """Return what the request takes where access is controlled."""
        return needs_of(getattr(self, str(self.request.method).lower()))

    def authenticate(self) -> Awaitable[None] | None:
        """Let in who may do what is asked for; where that cannot be told at once, return what tells it."""
        guard: Authenticator | None = self.application.settings["guard"]
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
        """Find out who asks. Who is not known yet has no place among what is done, which others would wait for."""
        self.release_slot()
        self._authorize(await guard.authenticate(authorization, str(self.request.remote_ip)), needs)

    def release_slot(self) -> None:
        """Give the place back that the connection has taken for this request, as it waits for something else first."""
        taken = errand.CURRENT.get()
        if taken is not None:
            self.application.settings["admission"].release(taken)

    def _authorize(self, login: Session, needs: Needs) -> None:
        self.login, self.caller = login, login.caller
        self.require_scope(needs)
        headers = self.request.headers
        # A GET may have a body, too.
        has_body = headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers
        if self.confirms_after_body and has_body:
            self._confirm_first(str(self.request.method).lower())

    def _confirm_first(self, name: str) -> None:
        """Run the method of this request, which Tornado calls when the body has come, behind a confirmation."""
        method = getattr(self, name)

        async def confirmed(*arguments: str) -> None:
            await self.confirm()
            answered = method(*arguments)
            if answered is not None:
                await answered

        setattr(self, name, confirmed)

    async def confirm(self) -> None:
        """Return if who asks may go on; Unauthorized if their key or token has ended, or has other rights by now."""
        guard: Authenticator | None = self.application.settings["guard"]
        if guard is not None and self.login is not None and not self.login.usable():
            await guard.confirm(self.login)

    def require_scope(self, needs: Needs) -> None:
        """Forbidden, unless who asks may do what takes that."""
        if self.login is not None:
            self.login.require_scope(needs)
