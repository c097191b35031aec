"""Authentication and scope check, run in `prepare()` before the handler method; and admission."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http.client import METHOD_NOT_ALLOWED
from typing import Any, ClassVar

from tornado.httputil import HTTPServerRequest
from tornado.web import HTTPError, RequestHandler

from guidsvc.api.base.application import ApiApplication
from guidsvc.api.contract.operation import is_operation, needs_of
from guidsvc.api.execution.context import ApiContext
from guidsvc.api.execution.pipeline import RequestPipeline, queue_name
from guidsvc.auth.session import Session
from guidsvc.domain.caller import ANYONE, Caller, Needs
from guidsvc.http.constants import METHODS
from guidsvc.runtime import cancel_scope
from guidsvc.runtime.admission import Slot
from guidsvc.runtime.cancel_scope import CancelScope
from guidsvc.runtime.fairness.fair_semaphore import FairSemaphore
from guidsvc.services.writes import write_attempt


class AnyMethod(tuple[str, ...]):
    """The methods that Tornado lets a handler see: all, so that `authenticate` decides about them, and not Tornado."""

    __slots__ = ()

    def __contains__(self, _: object) -> bool:
        """Return True."""
        return True


class AuthenticatedHandler(RequestHandler):
    """A handler that authenticates and authorizes its caller, and takes admission slots."""

    application: ApiApplication
    caller: Caller = ANYONE
    """The caller; ANYONE until authenticated."""
    session: Session | None = None
    """The caller's session, or None where access control is off."""
    confirms_after_body: ClassVar[bool] = True
    """Whether the session is confirmed again before the method runs: a body may arrive much later than the head."""

    SUPPORTED_METHODS = AnyMethod(METHODS)

    _cancel_scope: CancelScope | None = None  # of the work in progress
    _is_disconnected = False  # the client has disconnected

    def __init__(self, application: ApiApplication, request: HTTPServerRequest, **kwargs: Any) -> None:
        # Attributes, because a request reads them ten times. Tornado's constructor already uses them.
        self.context: ApiContext = application.context
        """The collaborators of the API."""
        self.pipeline: RequestPipeline = application.pipeline
        """The steps that handlers share with the fast path."""
        super().__init__(application, request, **kwargs)

    def needs(self) -> Needs | None:
        """Return the access that the request requires, or None if it is public."""
        return needs_of(getattr(self, str(self.request.method).lower()))

    def authenticate(self) -> Awaitable[None] | None:
        """Authenticate and authorize the caller, or take the turn of a public request.

        Return an awaitable, unless the session is cached or access is not controlled.
        """
        if self.request.method not in METHODS:
            return self._refuse_method()
        needs, authorization = self.needs(), self.request.headers.get("Authorization")
        if needs is None:
            turn = self.pipeline.public_turns.take_turn(self.queue_name)
            return (
                turn if authorization is None or not self.counts_without_scope() else self._spend(turn, authorization)
            )
        if not self.pipeline.is_access_controlled:
            return None
        session = self.pipeline.cached_session(authorization)
        if session is None:
            return self._log_in(authorization, needs)
        self._authorize(session, needs)
        return None

    async def _refuse_method(self) -> None:
        """Reject a method that no path supports, as Tornado does, in a turn like any request without a known caller."""
        await self.pipeline.public_turns.take_turn(self.queue_name)
        raise HTTPError(METHOD_NOT_ALLOWED)

    def counts_without_scope(self) -> bool:
        """Whether a request without a required scope counts against the rate limit of a known caller.

        Those of public operations do not. OPTIONS is no operation of its own: it only describes those of a path.
        """
        method = str(self.request.method)
        return method == "OPTIONS" or not is_operation(getattr(self, method.lower()))

    async def _spend(self, turn: Awaitable[None], authorization: str) -> None:
        """Take a turn, and spend a request of the rate limit if the caller is known without a login."""
        await turn
        if self.pipeline.usable_session(authorization) is not None:
            session = self.pipeline.cached_session(authorization)
            self.session = session or await self.pipeline.authenticate(
                authorization, str(self.request.remote_ip), self._scope_before_slot()
            )

    async def _log_in(self, authorization: str | None, needs: Needs) -> None:
        scope = self._scope_before_slot()
        if not self._has_body:  # otherwise the time limit would begin again when the body has arrived
            scope.begun_at = asyncio.get_running_loop().time()
        session = await self.pipeline.authenticate(authorization, str(self.request.remote_ip), scope)
        self._authorize(session, needs)

    def _scope_before_slot(self) -> CancelScope:
        """Return the scope of work before the request has a slot: the slot's, if the connection or a login made it."""
        current = cancel_scope.CURRENT.get() or self._cancel_scope
        self._cancel_scope = CancelScope() if current is None or current.has_started else current
        return self._cancel_scope

    def release_slot(self) -> None:
        """Release the admission slot that the connection took; the request must wait for something else first."""
        self.pipeline.release_slot(cancel_scope.CURRENT.get())

    def slot(self, *, patient: bool = False) -> Slot:
        """Return an admission slot for the request, or for one part of a long request."""
        scope = self._scope_before_slot()
        scope.is_persistent = write_attempt.CURRENT.get() is not None  # work under a receipt continues
        scope.is_cancelled = scope.is_disconnected = self._is_disconnected and not scope.is_persistent
        return self.pipeline.admission.slot(scope, self.queue_name, patient=patient)

    def list_slot(self, slots: FairSemaphore) -> AbstractAsyncContextManager[None]:
        """Return a slot for a list and an admission slot, for use with `async with`."""
        scope = self._scope_before_slot()
        scope.is_cancelled = scope.is_disconnected = self._is_disconnected
        return self.pipeline.list_slot(scope, self.queue_name, slots)

    @asynccontextmanager
    async def confirmed_slot(self) -> AsyncIterator[None]:
        """Hold an admission slot in the block; Unauthorized if the session has ended while the request waited."""
        async with self.slot():
            await self.confirm()
            yield

    @property
    def queue_name(self) -> str:
        """The name of the caller in queues and shares: its owner, or its network where access control is off."""
        return queue_name(self.session, str(self.request.remote_ip))

    def _authorize(self, session: Session, needs: Needs) -> None:
        self.session, self.caller = session, session.caller
        self.require_scope(needs)
        if self.confirms_after_body and self._has_body:
            self._confirm_first(str(self.request.method).lower())

    @property
    def _has_body(self) -> bool:
        """Whether the request has a body. A GET may have one, too."""
        headers = self.request.headers
        return headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers

    def _confirm_first(self, name: str) -> None:
        """Wrap the method, which Tornado calls once the body has arrived, so that the session is confirmed first."""
        method = getattr(self, name)

        async def confirm_and_run(*arguments: str) -> None:
            async with self.pipeline.under_time_limit(self._scope_before_slot()):
                await self.confirm()
            awaitable = method(*arguments)
            if awaitable is not None:
                await awaitable

        setattr(self, name, confirm_and_run)

    async def confirm(self) -> None:
        """Raise Unauthorized if the caller's key or token has ended or its rights have changed."""
        await self.pipeline.confirm(self.session)

    def require_scope(self, needs: Needs) -> None:
        """Raise Forbidden if the caller lacks the required access."""
        if self.session is not None:
            self.session.require_scope(needs)
