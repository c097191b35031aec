"""The resource `/problems/{code}`, to which the `type` of a problem links: the explanation as JSON or as a page."""

import html
import json
from string import Template

from pydantic_core import to_json

from guidsvc.api.contract import schemas
from guidsvc.api.contract.headers import CONTENT_SECURITY, ETAG, IF_NONE_MATCH_HERE, REFERRER, VARY, always
from guidsvc.api.contract.operation import ResponseSpec, operation
from guidsvc.api.docs.problem_catalog import EXPLANATIONS, ProblemDoc
from guidsvc.api.docs.static_pages import HTML, NOT_MODIFIED, StaticHandler, read
from guidsvc.http.constants import JSON
from guidsvc.http.errors import NoSuchPath
from guidsvc.http.headers.negotiation import preferred


class ProblemHandler(StaticHandler):
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
            headers=(*always(ETAG, VARY), CONTENT_SECURITY, REFERRER),
        ),
        NOT_MODIFIED,
        headers=(IF_NONE_MATCH_HERE,),
        problems=(NoSuchPath,),
    )
    async def get(self, code: str) -> None:
        """Return when a problem occurs, what to do, and an example."""
        if code not in EXPLANATIONS:
            raise NoSuchPath("No problem has this code: see the type of an error, or /openapi.json.")
        self.vary("Accept")
        if preferred(self.request.headers.get("Accept"), (JSON, HTML)) == HTML:
            self.respond_page(page(EXPLANATIONS[code]))
        else:
            self.respond_static(to_json(json_members(EXPLANATIONS[code])) + b"\n", JSON)

    head = get


def json_members(explanation: ProblemDoc) -> dict[str, object]:
    """Return an explanation as a JSON object."""
    code, status, title = explanation.problem
    head = {"code": code, "title": title, "status": status}
    return head | {"when": explanation.when, "remedy": explanation.remedy, "example": explanation.example}


def page(explanation: ProblemDoc) -> bytes:
    """Return an explanation as an HTML page."""
    members = json_members(explanation) | {"example": json.dumps(explanation.example, indent=2, ensure_ascii=False)}
    escaped = {name: html.escape(str(value)) for name, value in members.items()}
    return Template(read("problem.html").decode()).substitute(escaped).encode()
