"""The event log and its feed, by the settings."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from guidsvc.config import Settings, split_list
from guidsvc.domain.durations import parse_whole_seconds
from guidsvc.domain.events.schedule import MAX_WARNINGS, EventPolicy
from guidsvc.errors import StartError
from guidsvc.runtime.clock import Clock
from guidsvc.services.events.feed import EventFeed
from guidsvc.services.events.scheduler import Scheduler, running_scheduler
from guidsvc.store.contract import Database
from guidsvc.telemetry.metrics import EventMetrics

EVENT_SETTINGS = ("events_retention", "events_size", "warn_before", "max_streams")
"""Settings without effect if there is no event log."""


def event_policy(settings: Settings) -> EventPolicy:
    """Return the policy of the event log; raise StartError if the warnings are invalid."""
    return EventPolicy(settings.events, _warn_before(settings.warn_before))


@asynccontextmanager
async def open_events(
    settings: Settings, database: Database, *, clock: Clock, gauges: EventMetrics
) -> AsyncIterator[EventFeed | None]:
    """Run the scheduler of record steps, and yield the feed of events, or None without a log."""
    scheduler = Scheduler(
        database,
        clock=clock,
        retention_seconds=settings.events_retention,
        size_bytes=settings.events_size,
        gauges=gauges,
    )
    async with running_scheduler(scheduler):
        if settings.events == "off":
            yield None
            return
        feed = EventFeed(database.events, policy=event_policy(settings), clock=clock, max_streams=settings.max_streams)
        async with feed.running():
            yield feed


def _warn_before(text: str) -> tuple[int, ...]:
    items = split_list(text)
    if len(items) > MAX_WARNINGS:
        raise StartError(f"warn_before: {len(items)} durations are too many; use at most {MAX_WARNINGS}")
    warnings: list[int] = []
    for item in items:
        seconds = _seconds(item)
        if seconds in warnings:
            raise StartError(f"warn_before: {item!r} is in the list twice; remove one")
        warnings.append(seconds)
    return tuple(warnings)


def _seconds(text: str) -> int:
    try:
        seconds = parse_whole_seconds(text)
    except ValueError as error:
        raise StartError(f"warn_before: {text!r} {error}, such as 7d,1d") from error
    if not seconds:
        raise StartError(f"warn_before: {text!r} must be 1 second or more; leave it empty for no warning")
    return seconds
