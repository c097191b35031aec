"""The OpenAPI document as the service renders it, and a check of values by its schemas."""

import json
from typing import Any

import jsonschema_rs

from guidsvc.api.app import make_routes
from guidsvc.api.docs import openapi_document as openapi

ROUTES = make_routes()
DOCUMENT: dict[str, Any] = json.loads(openapi.render(ROUTES))


def check(value: object, schema: dict[str, Any]) -> None:
    """Check a value by a schema of the document."""
    jsonschema_rs.Draft202012Validator(schema | {"components": DOCUMENT["components"]}).validate(value)
