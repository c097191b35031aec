"""The example of each problem page equals a real response: the tests provoke each problem."""

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from guidsvc.api.docs.problem_catalog import EXPLANATIONS
from tests.conftest import ExpectedLogs, FakeClock, Serving
from tests.support.backing_servers import Server
from tests.support.provocations import BODY, OF_FAILING_STORE, PATH, PROVOCATIONS, World


def without_variable_parts(problem: Mapping[str, Any]) -> str:
    """Return the text of a problem without the parts that vary: times, numbers and ids."""
    text = json.dumps({name: value for name, value in problem.items() if name != "request_id"}, indent=1)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "<TIME>", text)
    text = re.sub(r"\bKey \w{12}\b", "Key <ID>", text)
    text = re.sub(r'"[\w-]{20}"', '"<CURSOR>"', text)
    return re.sub(r"\b\d+\b", "<NUMBER>", text)


def test_every_example_is_provoked() -> None:
    assert EXPLANATIONS.keys() == PROVOCATIONS.keys() | OF_FAILING_STORE


@pytest.mark.parametrize("code", PROVOCATIONS)
async def test_example_is_what_the_service_answers(
    code: str, serving: Serving, clock: FakeClock, sqlite_url: str, expected_logs: ExpectedLogs
) -> None:
    if code in {"internal", "in-progress"}:
        expected_logs.add("fault of the service", "request failed")
    reply = await PROVOCATIONS[code](World(serving, clock, sqlite_url))
    assert without_variable_parts(reply.json) == without_variable_parts(EXPLANATIONS[code].example)


@pytest.mark.slow
async def test_examples_of_a_failing_store_are_what_it_answers(
    serving: Serving, own_mongo: Server, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("request failed", "store unavailable")
    async with serving(store_url=f"mongodb://127.0.0.1:{own_mongo.port}/guidsvc") as client:
        await client.put(PATH, BODY)
        await client.get(PATH)  # the cache knows the record: the read before the write needs no store
        own_mongo.pause()
        unknown = await client.put(PATH, {"user": "another"})
        unavailable = await client.get(f"/guid/{'0' * 32}")
        assert without_variable_parts(unknown.json) == without_variable_parts(EXPLANATIONS["outcome-unknown"].example)
        assert without_variable_parts(unavailable.json) == without_variable_parts(EXPLANATIONS["unavailable"].example)
