"""Routes. One path template yields both the URL matching and the documentation of a path."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from tornado.httputil import HTTPServerRequest
from tornado.routing import URLSpec

from guidsvc.api.base.application import ApiApplication
from guidsvc.api.base.fallback import EarlyChange, Misdirected, OtherPage, RefusingHandler, ServerWideOptions
from guidsvc.api.base.handler import Handler
from guidsvc.api.execution.pipeline import RequestPipeline

_ABSOLUTE = re.compile(r"https?://([^/]*)(/.*)?", re.IGNORECASE)
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing, so that a replay of their requests does no harm."""
_PARAMETER = re.compile(r"\\\{\w+\\\}")


class Route(NamedTuple):
    """A path template such as `/guid/{guid}`, its handler, and the handler's arguments."""

    path: str
    handler: type[Handler]
    arguments: dict[str, Any] = {}

    @property
    def parameters(self) -> list[str]:
        """The names of the path parameters."""
        return re.findall(r"\{(\w+)\}", self.path)

    def rule(self) -> URLSpec:
        """Return the Tornado rule. A parameter is never empty and contains no slash."""
        return URLSpec(_PARAMETER.sub("([^/]+)", re.escape(self.path)), self.handler, self.arguments)


class RoutedApplication(ApiApplication):
    """An application that looks up most handlers in a dictionary, where Tornado would try each rule in turn."""

    def __init__(self, pipeline: RequestPipeline, routes: Sequence[Route], **settings: Any) -> None:
        super().__init__(pipeline, [route.rule() for route in routes], **settings)
        self.routes = routes
        self.path_templates = [route.path for route in routes]
        self._host_names = pipeline.context.host_names
        self._cors = None if pipeline.is_access_controlled else pipeline.context.cors
        self._exact = {route.path: route for route in routes if not route.parameters}
        self._prefixes = {
            route.path.partition("{")[0]: route
            for route in routes
            if len(route.parameters) == 1 and route.path.endswith("}")
        }

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        refusing = self._refusing_handler(request)
        if refusing is not None:
            return self.get_handler_delegate(request, refusing)
        if not request.path.startswith("/"):
            return self._find_otherwise(request, **kwargs)
        route = self._exact.get(request.path)
        if route is not None:
            return self.get_handler_delegate(request, route.handler, route.arguments)
        prefix, slash, last = request.path.rpartition("/")
        route = self._prefixes.get(prefix + slash)
        if route is not None and last and "%" not in last:
            return self.get_handler_delegate(request, route.handler, route.arguments, [last.encode("latin-1")])
        return super().find_handler(request, **kwargs)

    def _refusing_handler(self, request: HTTPServerRequest) -> type[RefusingHandler] | None:
        """Return the handler that refuses the request, whatever its path, or None if it is acceptable."""
        if not self._host_names.accepts(request):
            return Misdirected
        if self._cors is not None and self._cors.refuses(request.headers):
            return OtherPage
        if "Early-Data" in request.headers and request.method not in _SAFE:
            return EarlyChange
        return None

    def _find_otherwise(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        """Find the handler of a target in absolute form (RFC 9112, 3.2.2) or asterisk form (3.2.4)."""
        if request.method == "OPTIONS" and request.path == "*":
            return self.get_handler_delegate(request, ServerWideOptions)
        absolute = _ABSOLUTE.fullmatch(request.path)
        if absolute is None:
            return super().find_handler(request, **kwargs)
        request.host = absolute[1]
        request.path = absolute[2] or "/"
        request.uri = request.path + str(request.uri)[len(absolute[0]) :]
        return self.find_handler(request, **kwargs)
