"""The async client: the methods of the sync client, as coroutines."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Literal, Self, Unpack, overload

import httpx2

from guidsvc_client.aio.keys import AsyncKeys
from guidsvc_client.aio.leases import AsyncLease
from guidsvc_client.aio.lists import AsyncEventFeed, AsyncRecordList
from guidsvc_client.aio.session import AsyncSession
from guidsvc_client.key_models import Identity
from guidsvc_client.models import FullRecord, Readiness, Record, Renewal, Statistics
from guidsvc_client.protocol import batches, calls, workflows
from guidsvc_client.protocol.batches import MAX_OPERATIONS, BatchOptions, Operation, Result
from guidsvc_client.protocol.calls import Change, Filter, PutChange, Terms
from guidsvc_client.protocol.event_calls import EventFilter, Start, query_of
from guidsvc_client.protocol.lease_flows import LeaseOptions, plan_of
from guidsvc_client.protocol.retrying import Options, Policy
from guidsvc_client.protocol.values import Duration, Guid, Version
from guidsvc_client.protocol.workflows import FeedPlan
from guidsvc_client.transport import Service, tls_context


class AsyncClient:
    """A client of guidsvc. Tasks of one event loop may share it; use it with `async with`, or `aclose()` it.

    Without `url` and `key`, it uses the environment variables GUIDSVC_URL and GUIDSVC_KEY; an empty key means none.
    Pass `http` to choose certificates, proxies or limits of connections; you close it then.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        http: httpx2.AsyncClient | None = None,
        **options: Unpack[Options],
    ) -> None:
        self._service = Service.named(url, key)
        self._http = http or httpx2.AsyncClient(verify=tls_context(self._service.url))
        self._is_own_http = http is None
        self._options = options
        self._session = AsyncSession(self._service, Policy.of(options), self._http)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        if self._is_own_http:
            await self._http.aclose()

    def with_options(self, **options: Unpack[Options]) -> Self:
        """Return a client with the same connections and other options: `guids.with_options(retries=0).get(...)`."""
        changed: Options = {**self._options, **options}
        return type(self)(self._service.url, key=self._service.key, http=self._http, **changed)

    @overload
    async def get(
        self,
        guid: Guid,
        *,
        full: Literal[False] = False,
        valid_for: Duration | None = None,
        if_changed_from: Record | None = None,
    ) -> Record: ...
    @overload
    async def get(
        self,
        guid: Guid,
        *,
        full: Literal[True],
        valid_for: Duration | None = None,
        if_changed_from: FullRecord | None = None,
    ) -> FullRecord: ...
    async def get(
        self,
        guid: Guid,
        *,
        full: bool = False,
        valid_for: Duration | None = None,
        if_changed_from: Record | None = None,
    ) -> Record:
        """Return the record of a GUID, in any spelling. NotFound, Expired, or ExpiresTooSoon with `valid_for`.

        With `if_changed_from`, return that record itself if it has not changed; then the service sends no body.
        """
        return await self._session.send(calls.get(guid, FullRecord if full else Record, valid_for, if_changed_from))

    async def create(self, *, idempotency_key: str | None = None, **change: Unpack[Change]) -> Record:
        """Create a record under a GUID that the service generates. Repeated requests create only one.

        Pass your own idempotency key to repeat the call yourself, even after a restart, for 24 hours.
        """
        return await self._session.send(calls.create(idempotency_key, change))

    async def put(
        self,
        guid: Guid,
        *,
        if_match: Version | None = None,
        if_none_match: Literal["*"] | None = None,
        **change: Unpack[PutChange],
    ) -> Record:
        """Create a record under this GUID, or merge members into it; `metadata` is replaced as a whole.

        With `if_match`, PreconditionFailed unless the record has this version; with `if_none_match="*"`, if there is
        one. If the first response was lost, that may be this write: then OutcomeUnknown, with the current record.
        An expired record becomes valid again; with `revive=False`, Expired, and nothing changes.
        """
        return await self._session.send(calls.put(guid, change, Record, if_match, if_none_match))

    async def patch(self, guid: Guid, changes: Mapping[str, Any], *, if_match: Version | None = None) -> Record:
        """Apply a JSON merge patch: None removes a member. It is repeated only with a version in `if_match`."""
        return await self._session.send(calls.patch(guid, changes, if_match))

    async def update(self, guid: Guid, change: Callable[[Record], Record]) -> Record:
        """Read, change and write a record, so that no change of any client is lost or made twice.

        `change` is called again if another client has changed the record in between: `lambda r: r.replace(user="x")`.
        Expired if the record has expired, even in between, unless `change` sets `expire`.
        """
        return await self._session.run(workflows.update(guid, change))

    async def renew(self, guid: Guid, *, if_match: Version | None = None, **terms: Unpack[Terms]) -> Renewal:
        """Move the expiry later, never earlier."""
        return await self._session.send(calls.renew(guid, terms, if_match))

    async def delete(self, guid: Guid, *, if_match: Version | None = None) -> None:
        """Delete a record. NotFound if there is none."""
        await self._session.send(calls.delete(guid, if_match))

    @overload
    def list(
        self, *, full: Literal[False] = False, page_size: int = 500, **filters: Unpack[Filter]
    ) -> AsyncRecordList[Record]: ...
    @overload
    def list(
        self, *, full: Literal[True], page_size: int = 500, **filters: Unpack[Filter]
    ) -> AsyncRecordList[FullRecord]: ...
    def list(self, *, full: bool = False, page_size: int = 500, **filters: Unpack[Filter]) -> AsyncRecordList[Any]:
        """Return the records that a filter selects, live ones by default, as an iterator that reads page by page."""
        return AsyncRecordList(self._session, filters, FullRecord if full else Record, page_size)

    @overload
    def stream(
        self, *, full: Literal[False] = False, limit: int | None = None, **filters: Unpack[Filter]
    ) -> AsyncIterator[Record]: ...
    @overload
    def stream(
        self, *, full: Literal[True], limit: int | None = None, **filters: Unpack[Filter]
    ) -> AsyncIterator[FullRecord]: ...
    def stream(
        self, *, full: bool = False, limit: int | None = None, **filters: Unpack[Filter]
    ) -> AsyncIterator[Record]:
        """Yield all records that a filter selects, in one response. StreamTruncated if it is cut off."""
        return self._stream(filters, FullRecord if full else Record, limit)

    async def batch(self, operations: Iterable[Operation], **options: Unpack[BatchOptions]) -> Sequence[Result]:
        """Execute up to 1,000 operations in one request, once, and return their results in order."""
        return await self._session.send(batches.batch(map(batches.rendered, operations), options))

    async def put_many(
        self, records: Iterable[Record | Operation], *, chunk: int = MAX_OPERATIONS
    ) -> AsyncIterator[Result]:
        """Put any number of records, in batches, and yield a result for each, in order."""
        for operations in batches.chunks(map(batches.rendered, records), chunk):
            for result in await self._session.send(batches.batch(operations)):
                yield result

    def lease(self, guid: Guid | None = None, **options: Unpack[LeaseOptions]) -> AsyncLease:
        """Return a lease to hold with `with`: a thread renews it. LeaseHeld if another client has it.

        Without a GUID, it is a lease of its own, which is deleted at the end. Otherwise it is one of an election, which
        is revoked at the end, so that the next holder gets a higher fencing token.
        """
        return AsyncLease(self._session, plan_of(guid, options))

    def events(
        self, *, start: Start = "oldest", cursor: str | None = None, follow: bool = True, **filters: Unpack[EventFilter]
    ) -> AsyncEventFeed:
        """Return an iterator over the events of GUIDs, in order, after a cursor or else from the start.

        It waits for new events, even while the service does not respond, unless `follow` is False. EventsGone if the
        service does not have the events after the cursor any more.
        """
        return AsyncEventFeed(self._session, FeedPlan(query_of(filters), start, follow), cursor)

    @property
    def keys(self) -> AsyncKeys:
        """The API keys, for admins."""
        return AsyncKeys(self._session)

    async def whoami(self) -> Identity:
        """Return the identity of the client's key: its owner, its scopes, and the rest of its limits."""
        return await self._session.send(calls.whoami())

    async def stats(self) -> Statistics:
        """Count the GUIDs of all owners, and those that expire in each of the next hours and days.

        The key needs the scope `monitor`.
        """
        return await self._session.send(calls.stats())

    async def ready(self) -> Readiness:
        """Return whether the service is ready, and the state of its parts."""
        return await self._session.send(calls.ready())

    async def version(self) -> str:
        """Return the version of the service."""
        return await self._session.send(calls.version())

    async def _stream(self, filters: Filter, kind: type[Record], limit: int | None) -> AsyncIterator[Any]:
        async with aclosing(self._session.lines(calls.stream(filters, kind, limit), kind.from_wire)) as lines:
            async for record in lines:
                yield record
