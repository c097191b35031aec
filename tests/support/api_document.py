"""The OpenAPI document of a service without access control, and validation of values by its schemas."""

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
"""The kinds of components that operations refer to, except schemas."""
_RESPONSES_TO_OPTIONS = ("421", "431", "500", "503")


def resolved(document: Document) -> Document:
    """Return a document in which all references are replaced by their components, except those to schemas."""

    def resolve(node: Any) -> Any:
        if isinstance(node, list):
            return [resolve(child) for child in node]
        if not isinstance(node, dict):
            return node
        match = re.fullmatch(f"#/components/({'|'.join(SHARED)})/(.+)", str(node.get("$ref")))
        if match:
            return resolve(document["components"][match[1]][match[2]])
        return {name: resolve(child) for name, child in node.items()}

    result: Document = resolve(document)
    return result


def with_all_methods(document: Document) -> Document:
    """Return a resolved document with the operations that are served but not documented: HEAD and OPTIONS."""
    result = copy.deepcopy(document)
    for item in result["paths"].values():
        methods = ", ".join(name.upper() for name in item)
        noun = re.sub("^[a-z]+", "", next(iter(item.values()))["operationId"])
        model = item.get("get") or next(iter(item.values()))
        item["options"] = _options(model, f"options{noun}", methods)
        if "get" in item:
            item["head"] = _head(item["get"], f"head{noun}")
    return result


def _head(get: Document, name: str) -> Document:
    bodiless = {
        status: {member: value for member, value in response.items() if member not in {"content", "links"}}
        for status, response in get["responses"].items()
    }
    return get | {"operationId": name, "responses": bodiless}


def _options(model: Document, name: str, methods: str) -> Document:
    """Describe the OPTIONS of a path: its response depends only on the path, so its parameters may be anything."""
    parameters = copy.deepcopy([parameter_ for parameter_ in model["parameters"] if parameter_["in"] == "path"])
    for parameter in parameters:
        parameter["schema"] = {"type": "string"}
    problems = {status: model["responses"][status] for status in _RESPONSES_TO_OPTIONS}
    common = {
        header: spec for header, spec in problems["500"]["headers"].items() if header.startswith("X-")
    }  # those of every response
    allow = {"description": f"At least {methods}.", "schema": {"type": "string"}, "required": True}
    no_content = {"description": "The methods are listed in `Allow`.", "headers": common | {"Allow": allow}}
    return {
        "operationId": name,
        "tags": model["tags"],
        "parameters": parameters,
        "responses": {"204": no_content} | problems,
    }


DOCUMENT = resolved(json.loads(RENDERED))


def check(value: object, schema: Document) -> None:
    """Validate a value by a schema of the document."""
    jsonschema_rs.Draft202012Validator(schema | {"components": DOCUMENT["components"]}).validate(value)
