"""Lists and feeds of the sync client: iterators that read page by page."""

from collections.abc import Iterator
from typing import Generic, TypeVar

from guidsvc_client.models import Event, Page, Record
from guidsvc_client.protocol import calls
from guidsvc_client.protocol.calls import Filter
from guidsvc_client.protocol.workflows import FeedPlan, PageTurner, next_page
from guidsvc_client.sync.session import Session

RecordT = TypeVar("RecordT", bound=Record)


class RecordList(Generic[RecordT]):
    """The records that a filter selects. Iterate over it, or over its `pages()`."""

    def __init__(self, session: Session, filters: Filter, kind: type[RecordT], page_size: int) -> None:
        self._session = session
        self._filters = filters
        self._kind = kind
        self._page_size = page_size

    def __iter__(self) -> Iterator[RecordT]:
        for page in self.pages():
            yield from page.items

    def pages(self, cursor: str | None = None) -> Iterator[Page[RecordT]]:
        """Yield the pages, from a cursor on: the `next` of an earlier page."""
        turner = PageTurner("/guid")
        while True:
            page = self._page(self._page_size, cursor)
            cursor = turner.turn(cursor, page.next)
            yield page
            if cursor is None:
                return

    def total(self) -> int:
        """Count the records."""
        return self._page(1, None, has_total=True).total or 0

    def _page(self, limit: int, cursor: str | None, *, has_total: bool = False) -> Page[RecordT]:
        return self._session.send(calls.list_page(self._filters, self._kind, limit, cursor, has_total=has_total))


class EventFeed:
    """What happened to GUIDs, in order, from `cursor` on. Iterate over it; iterate again to continue.

    `cursor` advances with each event, and also past events that do not match. Save it to resume later.
    """

    def __init__(self, session: Session, plan: FeedPlan, cursor: str | None) -> None:
        self.cursor = cursor
        self._session = session
        self._plan = plan

    def __iter__(self) -> Iterator[Event]:
        turner = PageTurner("/events")
        while True:
            page = self._session.run(next_page(self._plan, self.cursor))
            turner.turn(self.cursor, page.next, may_stay=not page.has_more)
            for event in page.items:
                self.cursor = event.cursor
                yield event
            self.cursor = page.next
            if not self._plan.should_follow and not page.has_more:
                return
