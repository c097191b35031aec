"""The OpenAPI document as the service renders it without access control, and checks of values by its schemas."""

import copy
import json
import re
from typing import Any

import jsonschema_rs

from guidsvc.api.app import make_routes
from guidsvc.api.docs import openapi_document as openapi

Document = dict[str, Any]

ROUTES = make_routes()
RENDERED = openapi.render(ROUTES, lambda _: True)
SHARED = ("headers", "parameters", "responses")
"""The kinds of components that operations refer to, less the schemas."""
_RESPONSES_TO_OPTIONS = ("421", "431", "500", "503")


def resolved(document: Document) -> Document:
    """Return a document in which each reference is replaced by its component, other than references to schemas."""

    def resolve(node: Any) -> Any:
        if isinstance(node, list):
            return [resolve(each) for each in node]
        if not isinstance(node, dict):
            return node
        found = re.fullmatch(f"#/components/({'|'.join(SHARED)})/(.+)", str(node.get("$ref")))
        if found:
            return resolve(document["components"][found[1]][found[2]])
        return {name: resolve(each) for name, each in node.items()}

    whole: Document = resolve(document)
    return whole


def with_all_methods(document: Document) -> Document:
    """Return a resolved document with the operations that are served but not documented: HEAD and OPTIONS."""
    whole = copy.deepcopy(document)
    for item in whole["paths"].values():
        methods = ", ".join(name.upper() for name in item)
        noun = re.sub("^[a-z]+", "", next(iter(item.values()))["operationId"])
        model = item.get("get") or next(iter(item.values()))
        item["options"] = _options(model, f"options{noun}", methods)
        if "get" in item:
            item["head"] = _head(item["get"], f"head{noun}")
    return whole


def _head(get: Document, name: str) -> Document:
    bodiless = {
        status: {member: value for member, value in response.items() if member not in {"content", "links"}}
        for status, response in get["responses"].items()
    }
    return get | {"operationId": name, "responses": bodiless}


def _options(model: Document, name: str, methods: str) -> Document:
    """Describe the OPTIONS of a path: its answer depends on the path alone, and so its parameters may be anything."""
    parameters = copy.deepcopy([each for each in model["parameters"] if each["in"] == "path"])
    for parameter in parameters:
        parameter["schema"] = {"type": "string"}
    problems = {status: model["responses"][status] for status in _RESPONSES_TO_OPTIONS}
    common = {
        header: spec for header, spec in problems["500"]["headers"].items() if header.startswith("X-")
    }  # those of every response
    allow = {"description": f"At least {methods}.", "schema": {"type": "string"}, "required": True}
    done = {"description": "The methods are listed in `Allow`.", "headers": common | {"Allow": allow}}
    return {"operationId": name, "tags": model["tags"], "parameters": parameters, "responses": {"204": done} | problems}


DOCUMENT = resolved(json.loads(RENDERED))


def check(value: object, schema: Document) -> None:
    """Check a value by a schema of the document."""
    jsonschema_rs.Draft202012Validator(schema | {"components": DOCUMENT["components"]}).validate(value)
