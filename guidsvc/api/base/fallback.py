"""Handlers of requests that no route serves: `OPTIONS *`, another host name, early data, an unknown path."""

from guidsvc.api.base import near_paths
from guidsvc.api.base.handler import Handler
from guidsvc.errors import Forbidden
from guidsvc.http.constants import METHODS
from guidsvc.http.errors import MethodNotAllowed, MisdirectedRequest, NoSuchPath, TooEarly, TooLarge, UnknownMethod


class ServerWideOptions(Handler):
    """`OPTIONS *`: a request for the service as a whole (RFC 9110, 9.3.7)."""

    def allowed_methods(self) -> str:
        """Return the Allow header of all methods that any path serves."""
        return ", ".join(METHODS)


_HIDDEN = (MethodNotAllowed, UnknownMethod, TooLarge)
"""Errors of a request that would be refused without them too."""


class RefusingHandler(Handler):
    """The base of handlers that refuse each request, whatever its method, with an error of their own."""

    def refusal(self) -> Exception:
        """Return the error."""
        raise NotImplementedError

    def get(self, *_: str) -> None:
        """Refuse the request."""
        raise self.refusal()

    head = post = put = patch = delete = options = get

    def _translate(self, error: BaseException | None) -> BaseException:
        """Return the refusal also for an unknown method, and for a body that is too large."""
        translated = super()._translate(error)
        return self.refusal() if isinstance(translated, _HIDDEN) else translated


class Misdirected(RefusingHandler):
    """Any request under a host name that is not accepted."""

    def counts_without_scope(self) -> bool:
        """Return False: the host name is checked before the key."""
        return False

    def refusal(self) -> MisdirectedRequest:
        return MisdirectedRequest(self.context.host_names.rejected(self.request) or self.request.host)


class OtherPage(RefusingHandler):
    """Any request that a page of another origin sends, where access is not controlled."""

    def refusal(self) -> Forbidden:
        detail = "Pages of other origins may not use this service; its setting --cors-origins can allow them."
        return Forbidden(None, detail)


class EarlyChange(RefusingHandler):
    """Any request for a change that came as TLS early data."""

    def refusal(self) -> TooEarly:
        return TooEarly()


class UnknownPath(RefusingHandler):
    """Any request for an unknown path. The error suggests a similar one."""

    def refusal(self) -> NoSuchPath:
        return NoSuchPath(near_paths.explain(self.request.path, self.application.path_templates))
