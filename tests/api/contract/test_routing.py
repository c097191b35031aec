"""Routing of paths to handlers."""

import re

import pytest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.web import Application

from guidsvc.api.app import make_app
from tests.support.api_context import request_pipeline
from tests.support.factories import GUID

APP = make_app(request_pipeline())  # gets no requests
PATHS = [
    *(re.sub(r"\{\w+\}", GUID, route.path) for route in APP.routes),
    "/guid/",
    "/guid/a/b",
    "/guid/%41",
    "/guid/%2F",
    "/guid/a%0Ab",
    "/docs/",
    "/problems",
    "//guid",
    "/GUID",
    "/guid:batch/",
    "/x",
]  # fmt: skip


def request(target: str, method: str = "GET") -> HTTPServerRequest:
    """Return a request for a target."""
    return HTTPServerRequest(
        start_line=RequestStartLine(method, target, "HTTP/1.1"), headers=HTTPHeaders({"Host": "a"})
    )


@pytest.mark.parametrize("path", PATHS)
def test_dictionary_and_rules_find_the_same_handler(path: str) -> None:
    by_dictionary, by_rules = APP.find_handler(request(path)), Application.find_handler(APP, request(path))

    assert (by_dictionary.handler_class, by_dictionary.path_args) == (by_rules.handler_class, by_rules.path_args)


@pytest.mark.parametrize(
    ("target", "path"),
    [("http://a/version", "/version"), ("HTTPS://a:1/version?x=1", "/version"), ("http://a", "/"), ("http://a?x", "/")],
)
def test_absolute_target_is_routed_by_its_path(target: str, path: str) -> None:
    absolute = request(target)

    assert APP.find_handler(absolute).handler_class is APP.find_handler(request(path)).handler_class
    assert (absolute.path, str(absolute.uri).partition("?")[0]) == (path, path)


def test_asterisk_target_is_for_options_only() -> None:
    assert APP.find_handler(request("*", "OPTIONS")).handler_class.__name__ == "ServerWideOptions"
    assert APP.find_handler(request("*")).handler_class.__name__ == "UnknownPath"
