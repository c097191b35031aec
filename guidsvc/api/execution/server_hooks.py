"""The API's hooks for the server: which requests need admission, and responses to rejected requests and connections."""

from http.client import SERVICE_UNAVAILABLE

import structlog

from guidsvc.api.contract import problems
from guidsvc.api.execution import responses
from guidsvc.api.execution.guid_actions import requires_admission
from guidsvc.errors import TooManyConnections
from guidsvc.http.headers.cors import Cors
from guidsvc.http.headers.request_id import new_request_id
from guidsvc.monitoring.logs.log_config import REFUSED
from guidsvc.telemetry.metrics import RequestMetrics

_log = structlog.get_logger(__name__)


class ServerHooks:
    """Implements `guidsvc.server.protocol.state.ApplicationHooks`. Rejections are counted by status.

    `base` is the address of the service, for the `type` of errors. Pages of the origins in `cors` may read rejections.
    """

    def __init__(self, metrics: RequestMetrics, base: str = "", cors: Cors | None = None) -> None:
        self._metrics = metrics
        self._base = base
        self._cors = cors or Cors()

    def requires_admission(self, target: bytes) -> bool:
        return requires_admission(target)

    def cors_lines(self, origin: str | None) -> str:
        lines = "".join(f"{name}: {value}\r\n" for name, value in self._cors.headers_for(origin).items())
        return f"Vary: {responses.VARY}\r\n{lines}" if self._cors.any else ""

    def reject_request(self, error: Exception, *, origin: str | None, secure: bool) -> bytes:
        request_id, problem = new_request_id(), problems.problem_of(error)
        self._metrics.refused[problem.status] += 1
        if problem is problems.INTERNAL:  # an internal error before a handler had the request
            responses.log_failure(error, request_id)
        else:
            self.log_rejected(error, request_id=request_id)
        return responses.serialize_problem(
            error,
            request_id,
            base=self._base,
            last=True,
            extra_lines=b"".join(
                f"{name}: {value}\r\n".encode() for name, value in self._cors.headers_for(origin).items()
            ),
            secure=secure,
            varies=self._cors.any,
        )

    def log_rejected(self, error: Exception, **members: str) -> None:
        problem = problems.problem_of(error)
        _log.info(REFUSED, status=problem.status, code=problem.code, detail=str(error), **members)

    def reject_connection(self, *, secure: bool) -> bytes:
        self._metrics.refused[SERVICE_UNAVAILABLE] += 1
        return responses.serialize_problem(
            TooManyConnections("there are too many connections"),
            new_request_id(),
            base=self._base,
            last=True,
            secure=secure,
            varies=self._cors.any,
        )

    def log_failure(self, error: BaseException) -> None:
        responses.log_failure(error, new_request_id())
