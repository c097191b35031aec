"""Read the whole event log directly from the store, once it has the last event of each record."""

import asyncio
from collections.abc import Mapping

from guidsvc.domain.events.selection import EventSelection
from guidsvc.store import open_store
from guidsvc.store.event_log import EventLog, Numbered

PAGE = 1000
WAIT_SECONDS = 30.0
"""Time limit for the log to have all written events. An event that is missing after that is lost."""


async def whole_log(url: str, versions: Mapping[str, int]) -> list[Numbered]:
    """Return all entries of the log, once it has these versions, given by GUID."""
    entries: list[Numbered] = []
    missing = set(versions.items())
    async with open_store(url, exclusive=False) as store:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while True:
                    new = await _new_entries(store.events, entries)
                    missing -= {(each.entry.guid, each.entry.version) for each in new}
                    if not new and not missing:
                        return entries
                    await asyncio.sleep(0.0 if new else store.events.poll_seconds)
        except TimeoutError:
            return entries


async def _new_entries(log: EventLog, entries: list[Numbered]) -> list[Numbered]:
    """Append the next page to `entries`, and return it."""
    after = entries[-1].number if entries else (await log.bounds()).floor
    page = await log.read(after, PAGE, EventSelection())
    entries += page.entries
    return list(page.entries)
