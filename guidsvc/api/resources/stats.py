"""The resource `/stats`: the number of records, and when they expire."""

from typing import Any

from guidsvc.api.base.handler import Handler
from guidsvc.api.contract import schemas
from guidsvc.api.contract.operation import ResponseSpec, operation
from guidsvc.domain.caller import MONITOR
from guidsvc.domain.commands import NoQuery
from guidsvc.errors import InvalidRequest
from guidsvc.services.statistics import RecordCounts


class StatsHandler(Handler):
    """The statistics of all records."""

    label = "health"

    @operation(
        "getStats",
        "Count all GUIDs",
        ResponseSpec(200, "The counts.", schemas.Statistics),
        query=NoQuery,
        problems=(InvalidRequest,),
        required_scope=MONITOR,
    )
    async def get(self) -> None:
        """Count the GUIDs of all owners, and those that expire in each of the next hours and days.

        The counts may be up to 10 seconds old.
        """
        self.read_query(NoQuery)
        async with self.slot():
            counts = await self.context.statistics.current()
            await self.confirm()  # last, as a count may take seconds
        self.respond(200, _members(counts))

    head = get


def _members(counts: RecordCounts) -> dict[str, Any]:
    return {
        "live": counts.live,
        "expired": counts.expired,
        "expiring": {"hours": counts.hours, "days": counts.days},
        "at": str(counts.at),
    }
