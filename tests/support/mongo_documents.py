"""What tests read from MongoDB itself, past the store."""

import asyncio
from typing import Any

from pymongo.database import Database

Documents = Database[dict[str, Any]]
WAIT_SECONDS = 20.0


async def drained(documents: Documents) -> None:
    """Wait until no entry is in an outbox."""
    async with asyncio.timeout(WAIT_SECONDS):
        while documents["records"].count_documents({"g.pending": {"$gt": 0}}):
            await asyncio.sleep(0.01)
