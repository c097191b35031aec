"""The resources `/problems`, the list of all problems, and `/problems/{code}`, to which the `type` of a problem links.

Both are JSON, or a page for browsers.
"""

import json
from collections.abc import Callable, Mapping
from html import escape

from pydantic_core import to_json

from guidsvc.api.contract import schemas
from guidsvc.api.contract.headers import (
    CONTENT_ENCODING,
    CONTENT_SECURITY,
    ETAG,
    IF_NONE_MATCH_HERE,
    REFERRER,
    VARY,
    always,
)
from guidsvc.api.contract.operation import ResponseSpec, operation
from guidsvc.api.docs.problem_catalog import EXPLANATIONS, ProblemDoc
from guidsvc.api.docs.static_pages import NOT_MODIFIED, StaticHandler
from guidsvc.api.html import page as html_page
from guidsvc.api.html.page import HTML, prefers_html
from guidsvc.api.parsing.suggestions import nearest
from guidsvc.http.constants import JSON
from guidsvc.http.errors import NoSuchPath

SORTED = sorted(EXPLANATIONS.values(), key=lambda each: (each.problem.status, each.problem.code))
"""The problems by status, then code."""


class NegotiatedHandler(StaticHandler):
    """Base class of both handlers: JSON, or a page for clients that prefer HTML."""

    async def respond_negotiated(self, members: Mapping[str, object], render_page: Callable[[], bytes]) -> None:
        """Respond with the members as JSON, or with the page."""
        self.vary("Accept")
        if prefers_html(self.request.headers.get("Accept")):
            await self.respond_static_page(render_page())
        else:
            await self.respond_static(to_json(members) + b"\n", JSON)


class ProblemsHandler(NegotiatedHandler):
    """The list of all problems."""

    @operation(
        "listProblems",
        "List all problems",
        ResponseSpec(
            200,
            "The problems.",
            schemas.ProblemList,
            other={HTML: "The problems as a page."},
            headers=(*always(ETAG, VARY), CONTENT_SECURITY, REFERRER),
        ),
        NOT_MODIFIED,
        headers=(IF_NONE_MATCH_HERE,),
    )
    async def get(self) -> None:
        """Return the `type`, code, status and title of each problem, and when it occurs."""
        summaries = [summary(each, self.context.public_url) for each in SORTED]
        await self.respond_negotiated({"problems": summaries}, list_page)

    head = get


class ProblemHandler(NegotiatedHandler):
    """The explanation of a problem."""

    in_path = {
        "code": {
            "type": "string",
            "enum": list(EXPLANATIONS),
            "description": "The `code` of a problem.",
            "examples": ["expired"],
        }
    }

    @operation(
        "getProblem",
        "Explain a problem",
        ResponseSpec(
            200,
            "The explanation.",
            schemas.Explanation,
            other={HTML: "The explanation as a page."},
            headers=(*always(ETAG, VARY), CONTENT_ENCODING, CONTENT_SECURITY, REFERRER),
        ),
        NOT_MODIFIED,
        headers=(IF_NONE_MATCH_HERE,),
        problems=(NoSuchPath,),
    )
    async def get(self, code: str) -> None:
        """Return the cause of a problem, its remedy, and an example."""
        if code not in EXPLANATIONS:
            near = nearest(code.replace("_", "-"), tuple(EXPLANATIONS))
            question = "" if near is None else f" Did you mean {near}?"
            raise NoSuchPath(f"There is no error code with this name.{question} GET /problems lists all codes.")
        members = json_members(EXPLANATIONS[code], self.context.public_url)
        await self.respond_negotiated(members, lambda: page(members))

    head = get


def type_of(code: str, base: str) -> str:
    """Return the `type` of a problem; `base` is the address of the service, or an empty string."""
    return f"{base}/problems/{code}"


def summary(explanation: ProblemDoc, base: str) -> dict[str, object]:
    """Return the entry of a problem in the list of all, with the same `type` as the errors themselves."""
    code, status, title = explanation.problem
    return {
        "type": type_of(code, base),
        "code": code,
        "title": title,
        "status": status,
        "when": explanation.when,
    }


def list_page() -> bytes:
    """Return the list of all problems as an HTML page."""
    entries = "".join(
        f'<dt><strong>{status}</strong> <a href="problems/{code}"><code>{code}</code></a></dt>\n'
        f"<dd>{escape(explanation.when)}</dd>\n"
        for explanation in SORTED
        for code, status, _ in [explanation.problem]
    )
    content = f"<p>Every error has one of these codes.</p>\n<dl>\n{entries}</dl>"
    return html_page.render("Problems", "/problems", content, is_text=True)


def json_members(explanation: ProblemDoc, base: str) -> dict[str, object]:
    """Return an explanation as a JSON object."""
    code, status, title = explanation.problem
    head = {"code": code, "title": title, "status": status}
    example = explanation.example | {"type": type_of(code, base)}
    return head | {"when": explanation.when, "remedy": explanation.remedy, "example": example}


def page(members: Mapping[str, object]) -> bytes:
    """Return an explanation, given by its members, as an HTML page."""
    code = members["code"]
    example = json.dumps(members["example"], indent=2, ensure_ascii=False)
    content = (
        f'<p class="kind"><strong>{members["status"]}</strong> <code>{code}</code></p>\n'
        f"<h2>When it occurs</h2>\n<p>{escape(str(members['when']))}</p>\n"
        f"<h2>What to do</h2>\n<p>{escape(str(members['remedy']))}</p>\n"
        f"<h2>Example</h2>\n{html_page.code_block(example)}"
    )
    return html_page.render(str(members["title"]), f"/problems/{code}", content, is_text=True)
