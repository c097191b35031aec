"""A dozen seeds of the nemesis of the client; `python -m tests.client` runs 500."""

import asyncio

import pytest

from tests.client.nemesis import Findings, run_seed
from tests.conftest import ExpectedLogs
from tests.support.backing_servers import Service


@pytest.mark.slow
async def test_lost_messages_do_no_harm(running: Service, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("not released; it expires by itself", "not released in time")
    whole = Findings()
    for first in range(0, 12, 4):
        for found in await asyncio.gather(*(run_seed(seed, running.port) for seed in range(first, first + 4))):
            whole.add(found)

    assert whole.violations == []
    assert whole.counts["connections cut"] > 50
    assert whole.counts["loss: noticed"] > 6
    assert whole.counts["tenures"] > 12
