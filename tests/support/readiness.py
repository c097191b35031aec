"""The readiness of a service, which follows the state of its parts within a moment."""

import asyncio

from tests.support.backing_servers import START_SECONDS
from tests.support.http_client import Client, Reply


async def until_ready(client: Client, **members: object) -> Reply:
    """Return the response of /readyz once it has these members."""
    async with asyncio.timeout(START_SECONDS):
        while not (reply := await client.get("/readyz")).json.items() >= members.items():
            await asyncio.sleep(0.01)
    return reply
