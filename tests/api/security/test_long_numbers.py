"""A number of thousands of digits, anywhere in a request, is no fault of the service: Python converts at most 4,300."""

import sys

import pytest

from guidsvc.api.parsing.key_schemas import KeysQuery
from guidsvc.domain.commands import BatchQuery, ListQuery
from guidsvc.domain.events.query import EventQuery
from guidsvc.http.headers.recognized import READ
from tests.conftest import Serving
from tests.support.factories import GUID

pytestmark = pytest.mark.both_servers

NUMBERS = [digit * (sys.get_int_max_str_digits() + 700) for digit in "019"]
SHAPES = ["{}", '"{}"', 'W/"{}"', "{};q=0.5", "a;q={}", "wait={}", "a:{}", "[::1]:{}", "http://a:{}", "10.0.0.1:{}"]
"""Values with a number in them. Those that are malformed for a header are rejected for that."""
UNSENT = {"Expect", "Content-Length", "Transfer-Encoding"}
"""Headers with which the client would not send, or could not complete, its request; see the tests of raw requests."""
PARAMETERS = sorted(
    {*ListQuery.model_fields, *BatchQuery.model_fields, *KeysQuery.model_fields, *EventQuery.model_fields}
)
REQUESTS = [("GET", "/docs", None), ("PUT", f"/guid/{GUID}", {"user": "a"}), ("GET", f"/guid/{GUID}", None)]


async def test_long_number_in_a_header_is_no_fault(serving: Serving) -> None:
    async with serving() as client:
        for header in sorted({name.decode().title() for name in READ} - UNSENT):
            for shape in SHAPES:
                for number in NUMBERS:
                    for method, path, json in REQUESTS:
                        reply = await client.ask(method, path, json=json, headers={header: shape.format(number)})
                        assert reply.status < 500, f"{method} {path} with {header}: {shape}"


async def test_long_number_in_a_target_is_no_fault(serving: Serving) -> None:
    paths = ["/guid", "/events", "/keys", "/stats", f"/guid/{GUID}"]
    async with serving(max_head_bytes=65_536) as client:
        for number in NUMBERS:
            for path in [f"/{number}", f"/guid/{number}", f"http://a:{number}/docs"]:
                assert (await client.get(path)).status < 500, path[:20]
            for path in paths:
                for parameter in PARAMETERS:
                    for start in ("", "-", "%2B"):
                        assert (await client.get(f"{path}?{parameter}={start}{number}")).status < 500, parameter


async def test_long_number_in_a_body_is_no_fault(serving: Serving) -> None:
    members = ["user", "expire", "ttl", "spread", "metadata", "if_below", "valid_for", "version"]
    async with serving() as client:
        for number in NUMBERS:
            for member in members:
                for value in (number, f'"{number}"', f"-{number}", f'"-{number}"', f"{number}.0", f'{{"a":{number}}}'):
                    body = f'{{"user":"a","{member}":{value}}}'.encode()
                    for method, path in (("PUT", f"/guid/{GUID}"), ("POST", "/guid"), ("PATCH", f"/guid/{GUID}")):
                        headers = {"Content-Type": "application/json"}
                        reply = await client.ask(method, path, body=body, headers=headers)
                        assert reply.status < 500, f"{method} with {member}: {value[:3]}"
