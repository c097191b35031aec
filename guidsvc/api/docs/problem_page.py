"""Where the `type` of a problem leads: `/problems/{code}`, for people and for programs."""

import html
import json
from string import Template

from pydantic_core import to_json

from guidsvc.api.contract import schemas as answers
from guidsvc.api.contract.headers import CONTENT_SECURITY, ETAG, IF_NONE_MATCH_HERE, REFERRER, VARY, always
from guidsvc.api.contract.operation import ResponseSpec, operation
from guidsvc.api.docs.problem_catalog import EXPLANATIONS, ProblemDoc
from guidsvc.api.docs.static_pages import HTML, NOT_MODIFIED, LastingHandler, read
from guidsvc.http.constants import JSON
from guidsvc.http.errors import NoSuchPath
from guidsvc.http.headers.negotiation import preferred


class ProblemHandler(LastingHandler):
    """One problem, explained."""

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
        "What a problem means",
        ResponseSpec(
            200,
            "What it means, and what to do.",
            answers.Explanation,
            other={HTML: "The same, to read."},
            headers=(*always(ETAG, VARY), CONTENT_SECURITY, REFERRER),
        ),
        NOT_MODIFIED,
        headers=(IF_NONE_MATCH_HERE,),
        problems=(NoSuchPath,),
    )
    async def get(self, code: str) -> None:
        """Answer when a problem happens, what to do, and what it looks like."""
        if code not in EXPLANATIONS:
            raise NoSuchPath("No problem has this code.")
        self.vary("Accept")
        if preferred(self.request.headers.get("Accept"), (JSON, HTML)) == HTML:
            self.reply_page(page(EXPLANATIONS[code]))
        else:
            self.reply_lasting(to_json(told(EXPLANATIONS[code])) + b"\n", JSON)

    head = get


def told(explanation: ProblemDoc) -> dict[str, object]:
    """Return an explanation as it is told to programs."""
    code, status, title = explanation.problem
    head = {"code": code, "title": title, "status": status}
    return head | {"when": explanation.when, "remedy": explanation.remedy, "example": explanation.example}


def page(explanation: ProblemDoc) -> bytes:
    """Return an explanation as it is told to people."""
    words = told(explanation) | {"example": json.dumps(explanation.example, indent=2, ensure_ascii=False)}
    escaped = {name: html.escape(str(value)) for name, value in words.items()}
    return Template(read("problem.html").decode()).substitute(escaped).encode()
