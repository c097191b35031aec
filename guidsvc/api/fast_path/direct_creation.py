"""A creation under a generated GUID, without a handler."""

from collections.abc import Coroutine
from functools import partial
from typing import Any

from guidsvc.api.contract.headers import IDEMPOTENCY_KEY, REPLAYED
from guidsvc.api.execution.guid_actions import (
    COLLECTION_ROUTE,
    CREATION,
    GuidRequest,
    execute_creation,
    read_creation,
)
from guidsvc.api.execution.idempotent_work import execute_once
from guidsvc.api.execution.pipeline import queue_name
from guidsvc.api.fast_path.direct_request import DirectRequest
from guidsvc.api.parsing import idempotency_key
from guidsvc.domain.caller import ANYONE
from guidsvc.http.response import Response
from guidsvc.services.guid_service import GuidService


class DirectCreation(DirectRequest):
    """A creation on the fast path, until it is answered."""

    __slots__ = ()
    route = COLLECTION_ROUTE

    def _execute(self, body: bytes) -> Coroutine[Any, Any, Response]:
        has_key = IDEMPOTENCY_KEY.name in self._request.headers
        return self._run(CREATION._replace(run=self._create_once) if has_key else CREATION, body)

    async def _create_once(self, service: GuidService, request: GuidRequest) -> Response:
        """Execute a creation with an Idempotency-Key, or return the response that is stored for that."""
        command, preconditions = read_creation(request)
        once = idempotency_key.parse(
            f"{request.method} {COLLECTION_ROUTE}",
            request.body(),
            self._values_of,
            caller=ANYONE if self._session is None else self._session.caller,
            queue_name=queue_name(self._session, self._request.address),
            repeatable=True,
        )
        create = partial(execute_creation, service, request, command, preconditions)
        if once is None:
            return await create()
        idempotency = self._pipeline.context.idempotency
        response, is_replayed = await execute_once(idempotency, once._replace(is_creation=True), create)
        return response._replace(headers={REPLAYED.name: "true"} | response.headers) if is_replayed else response

    def _values_of(self, name: str) -> list[str]:
        headers = self._request.headers
        return [headers[name]] if name in headers else []
