"""The Tornado application that handlers belong to: it holds the request pipeline."""

from collections.abc import Sequence
from typing import Any

from tornado.routing import URLSpec
from tornado.web import Application

from guidsvc.api.execution.pipeline import RequestPipeline


class ApiApplication(Application):
    """An application with typed collaborators, in place of Tornado's untyped settings."""

    path_templates: Sequence[str] = ()
    """The path templates of all routes, such as `/guid/{guid}`."""

    def __init__(self, pipeline: RequestPipeline, rules: list[URLSpec], **settings: Any) -> None:
        super().__init__(rules, **settings)
        self.pipeline = pipeline
        self.context = pipeline.context
