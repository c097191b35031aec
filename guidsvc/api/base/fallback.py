"""Handlers of requests that no route serves: `OPTIONS *`, another host name, early data, an unknown path."""

from typing import ClassVar

from guidsvc.api.base import near_paths
from guidsvc.api.base.handler import Handler
from guidsvc.errors import Forbidden, RateLimited
from guidsvc.http.constants import METHODS
from guidsvc.http.errors import MisdirectedRequest, NoSuchPath, TooEarly


class ServerWideOptions(Handler):
    """`OPTIONS *`: a request for the service as a whole (RFC 9110, 9.3.7)."""

    def allowed_methods(self) -> str:
        """Return the Allow header of all methods that any path serves."""
        return ", ".join(METHODS)


class RefusingHandler(Handler):
    """The base of handlers that refuse each request, whatever its method, with an error of their own."""

    passed_on: ClassVar[tuple[type[Exception], ...]]
    """The errors that the client gets as they are: its own, which takes time to make, and perhaps others."""

    def refusal(self) -> Exception:
        """Return the error."""
        raise NotImplementedError

    def get(self, *_: str) -> None:
        """Refuse the request."""
        raise self.refusal()

    head = post = put = patch = delete = options = get

    def _translate(self, error: BaseException | None) -> BaseException:
        """Return the error for unknown methods too."""
        return error if isinstance(error, self.passed_on) else self.refusal()


class Misdirected(RefusingHandler):
    """Any request under a host name that is not accepted."""

    passed_on = (MisdirectedRequest,)

    def counts_without_scope(self) -> bool:
        """Return False: the host name is checked before the key."""
        return False

    def refusal(self) -> MisdirectedRequest:
        return MisdirectedRequest(self.context.host_names.rejected(self.request) or self.request.host)


class OtherPage(RefusingHandler):
    """Any request that a page of another origin sends, where access is not controlled."""

    passed_on = (Forbidden,)

    def refusal(self) -> Forbidden:
        detail = "Pages of other origins may not use this service; its setting --cors-origins can allow them."
        return Forbidden(None, detail)


class EarlyChange(RefusingHandler):
    """Any request for a change that came as early data of TLS."""

    passed_on = (TooEarly,)

    def refusal(self) -> TooEarly:
        return TooEarly()


class UnknownPath(RefusingHandler):
    """Any request for an unknown path. The error suggests a similar one."""

    passed_on = (NoSuchPath, RateLimited)

    def refusal(self) -> NoSuchPath:
        return NoSuchPath(near_paths.explain(self.request.path, self.application.path_templates))
