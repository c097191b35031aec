"""A row of the route table: one template of a path, from which both what is matched and what is told of it come."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from tornado.httputil import HTTPServerRequest
from tornado.routing import URLSpec
from tornado.web import Application

from guidsvc.web.base import Handler

_PARAMETER = re.compile(r"\\\{\w+\\\}")


class Route(NamedTuple):
    """A path, as in `/guid/{guid}`, its handler, and what that needs."""

    path: str
    handler: type[Handler]
    needs: dict[str, Any] = {}

    @property
    def parameters(self) -> list[str]:
        """The names of what varies in the path."""
        return re.findall(r"\{(\w+)\}", self.path)

    def rule(self) -> URLSpec:
        """Return what Tornado matches paths with. A parameter is never empty, and holds no slash."""
        return URLSpec(_PARAMETER.sub("([^/]+)", re.escape(self.path)), self.handler, self.needs)


class RoutedApplication(Application):
    """An application that finds most of its handlers in a dictionary, where Tornado would try rule after rule."""

    def __init__(self, routes: Sequence[Route], **settings: Any) -> None:
        super().__init__([route.rule() for route in routes], routes=routes, **settings)
        self._exact = {route.path: route for route in routes if not route.parameters}
        self._prefixes = {route.path.partition("{")[0]: route for route in routes if len(route.parameters) == 1}

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        route = self._exact.get(request.path)
        if route is not None:
            return self.get_handler_delegate(request, route.handler, route.needs)
        prefix, slash, last = request.path.rpartition("/")
        route = self._prefixes.get(prefix + slash)
        if route is not None and last and "%" not in last:
            return self.get_handler_delegate(request, route.handler, route.needs, [last.encode("latin-1")])
        return super().find_handler(request, **kwargs)
