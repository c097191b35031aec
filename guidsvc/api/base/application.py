"""The Tornado application that handlers belong to: it holds the context of the API."""

from typing import Any

from tornado.routing import URLSpec
from tornado.web import Application

from guidsvc.api.execution.context import ApiContext


class ApiApplication(Application):
    """An application with a typed context, in place of Tornado's untyped settings."""

    def __init__(self, context: ApiContext, rules: list[URLSpec], **settings: Any) -> None:
        super().__init__(rules, **settings)
        self.context = context
