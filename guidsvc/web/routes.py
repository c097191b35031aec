"""A row of the route table: one template of a path, from which both what is matched and what is told of it come."""

import re
from typing import Any, NamedTuple

from tornado.routing import URLSpec

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
