"""The page of an error. It shows every member of the problem document, but no record, which has a page of its own."""

import shlex
from html import escape
from typing import Any

from pydantic_core import from_json, to_json

from guidsvc.api.contract import problems
from guidsvc.api.html import page
from guidsvc.errors import Unauthorized

_IN_WORDS = ("type", "title", "status", "code", "detail", "request_id")


def error_page(error: BaseException, request_id: str, path: str, url: str) -> bytes:
    """Render the page of an error of the request for this path, at this URL."""
    problem: dict[str, Any] = from_json(
        problems.render_brief(error, request_id, problems.members_without_record(error))
    )
    code, root = problem["code"], page.root_of(path)
    content = (
        f'<p class="kind"><strong>{problem["status"]}</strong> <code>{code}</code></p>\n'
        f"<p>{page.visible(problem['detail'])}</p>\n{_advice(error, url, root)}{_specific_members(problem)}"
        f'<p><a href="{root}problems/{code}">When this occurs, and what to do</a></p>\n'
        f'<p class="kind">Request id: <code>{escape(request_id)}</code></p>'
    )
    return page.render(problem["title"], path, content)


def _specific_members(problem: dict[str, Any]) -> str:
    members = {name: value for name, value in problem.items() if name not in _IN_WORDS}
    return page.code_block(to_json(members, indent=2).decode()) if members else ""


def _advice(error: BaseException, url: str, root: str) -> str:
    if not isinstance(error, Unauthorized):
        return ""
    command = f"curl -H 'Authorization: Bearer gs_...' {shlex.quote(url)}"
    return (
        "<p>This service requires an API key, and a browser sends none. Use curl, with a key from the operators of the "
        f"service:</p>\n{page.code_block(command)}"
        f'<p>Or open the <a href="{root}docs">API documentation</a>, choose Authorize, enter the key, and send '
        "requests from there.</p>\n"
    )
