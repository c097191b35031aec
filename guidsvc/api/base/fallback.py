"""Handlers of requests that no route serves: `OPTIONS *`, another host name, an unknown path."""

from guidsvc.api.base import near_paths
from guidsvc.api.base.handler import Handler
from guidsvc.errors import Forbidden, RateLimited
from guidsvc.http.constants import METHODS
from guidsvc.http.errors import MisdirectedRequest, NoSuchPath


class ServerWideOptions(Handler):
    """`OPTIONS *`: a request for the service as a whole (RFC 9110, 9.3.7)."""

    def allowed_methods(self) -> str:
        """Return the Allow header of all methods that any path serves."""
        return ", ".join(METHODS)


class Misdirected(Handler):
    """Any request under a host name that is not accepted."""

    def get(self, *_: str) -> None:
        """Refuse it."""
        raise self._misdirected()

    head = post = put = patch = delete = options = get

    def counts_without_scope(self) -> bool:
        """Return False: the host name is checked before the key."""
        return False

    def _translate(self, error: BaseException | None) -> BaseException:
        """Return MisdirectedRequest for unknown methods too."""
        return error if isinstance(error, MisdirectedRequest) else self._misdirected()

    def _misdirected(self) -> MisdirectedRequest:
        return MisdirectedRequest(self.context.host_names.rejected(self.request) or self.request.host)


class OtherPage(Handler):
    """Any request that a page of another origin sends, where access is not controlled."""

    def get(self, *_: str) -> None:
        """Refuse it."""
        raise self._forbidden()

    head = post = put = patch = delete = options = get

    def _translate(self, error: BaseException | None) -> BaseException:
        """Return Forbidden for unknown methods too."""
        return error if isinstance(error, Forbidden) else self._forbidden()

    def _forbidden(self) -> Forbidden:
        detail = "Pages of other origins may not use this service; its setting --cors-origins can allow them."
        return Forbidden(None, detail)


class UnknownPath(Handler):
    """Any request for an unknown path."""

    def get(self, *_: str) -> None:
        """Report that the path does not exist, and suggest a similar one."""
        raise self._no_such_path()

    head = post = put = patch = delete = options = get

    def _translate(self, error: BaseException | None) -> BaseException:
        """Return NoSuchPath for unknown methods too."""
        return error if isinstance(error, (NoSuchPath, RateLimited)) else self._no_such_path()

    def _no_such_path(self) -> NoSuchPath:
        return NoSuchPath(near_paths.explain(self.request.path, self.application.path_templates))
