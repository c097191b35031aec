"""The sync client."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, Unpack, overload

import httpx2

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
from guidsvc_client.sync.head_limit import limited
from guidsvc_client.sync.keys import Keys
from guidsvc_client.sync.leases import Lease
from guidsvc_client.sync.lists import EventFeed, RecordList
from guidsvc_client.sync.session import Session
from guidsvc_client.transport import Service, tls_context


class Client:
    """A client of guidsvc. Threads may share it; use it with `with`, or close it.

    Without `url` and `key`, it uses the environment variables GUIDSVC_URL and GUIDSVC_KEY; an empty key means none.
    Pass `http` to choose certificates, proxies or limits of connections; you close it then.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        http: httpx2.Client | None = None,
        **options: Unpack[Options],
    ) -> None:
        self._service = Service.named(url, key)
        self._http = http or limited(httpx2.Client(verify=tls_context(self._service.url)))
        self._is_own_http = http is None
        self._options = options
        self._session = Session(self._service, Policy.of(options), self._http)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if self._is_own_http:
            self._http.close()

    def with_options(self, **options: Unpack[Options]) -> Self:
        """Return a client with the same connections and other options: `guids.with_options(retries=0).get(...)`."""
        changed: Options = {**self._options, **options}
        return type(self)(self._service.url, key=self._service.key, http=self._http, **changed)

    @overload
    def get(
        self,
        guid: Guid,
        *,
        full: Literal[False] = False,
        valid_for: Duration | None = None,
        if_changed_from: Record | None = None,
    ) -> Record: ...
    @overload
    def get(
        self,
        guid: Guid,
        *,
        full: Literal[True],
        valid_for: Duration | None = None,
        if_changed_from: FullRecord | None = None,
    ) -> FullRecord: ...
    def get(
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
        return self._session.send(calls.get(guid, FullRecord if full else Record, valid_for, if_changed_from))

    def create(self, *, idempotency_key: str | None = None, **change: Unpack[Change]) -> Record:
        """Create a record under a GUID that the service generates. Repeated requests create only one.

        Pass your own idempotency key to repeat the call yourself, even after a restart, for 24 hours.
        """
        return self._session.send(calls.create(idempotency_key, change))

    def put(
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
        return self._session.send(calls.put(guid, change, Record, if_match, if_none_match))

    def patch(self, guid: Guid, changes: Mapping[str, Any], *, if_match: Version | None = None) -> Record:
        """Apply a JSON merge patch: None removes a member. It is repeated only with a version in `if_match`."""
        return self._session.send(calls.patch(guid, changes, if_match))

    def update(self, guid: Guid, change: Callable[[Record], Record]) -> Record:
        """Read, change and write a record, so that no change of any client is lost or made twice.

        `change` is called again if another client has changed the record in between: `lambda r: r.replace(user="x")`.
        Expired if the record has expired, even in between, unless `change` sets `expire`.
        """
        return self._session.run(workflows.update(guid, change))

    def renew(self, guid: Guid, *, if_match: Version | None = None, **terms: Unpack[Terms]) -> Renewal:
        """Move the expiry later, never earlier."""
        return self._session.send(calls.renew(guid, terms, if_match))

    def delete(self, guid: Guid, *, if_match: Version | None = None) -> None:
        """Delete a record. NotFound if there is none."""
        self._session.send(calls.delete(guid, if_match))

    @overload
    def list(
        self, *, full: Literal[False] = False, page_size: int = 500, **filters: Unpack[Filter]
    ) -> RecordList[Record]: ...
    @overload
    def list(
        self, *, full: Literal[True], page_size: int = 500, **filters: Unpack[Filter]
    ) -> RecordList[FullRecord]: ...
    def list(self, *, full: bool = False, page_size: int = 500, **filters: Unpack[Filter]) -> RecordList[Any]:
        """Return the records that a filter selects, live ones by default, as an iterator that reads page by page."""
        return RecordList(self._session, filters, FullRecord if full else Record, page_size)

    @overload
    def stream(
        self, *, full: Literal[False] = False, limit: int | None = None, **filters: Unpack[Filter]
    ) -> Iterator[Record]: ...
    @overload
    def stream(
        self, *, full: Literal[True], limit: int | None = None, **filters: Unpack[Filter]
    ) -> Iterator[FullRecord]: ...
    def stream(self, *, full: bool = False, limit: int | None = None, **filters: Unpack[Filter]) -> Iterator[Record]:
        """Yield all records that a filter selects, in one response. StreamTruncated if it is cut off."""
        kind = FullRecord if full else Record
        return self._session.lines(calls.stream(filters, kind, limit), kind.from_wire)

    def batch(self, operations: Iterable[Operation], **options: Unpack[BatchOptions]) -> Sequence[Result]:
        """Execute up to 1,000 operations in one request, once, and return their results in order."""
        return self._session.send(batches.batch(map(batches.rendered, operations), options))

    def put_many(self, records: Iterable[Record | Operation], *, chunk: int = MAX_OPERATIONS) -> Iterator[Result]:
        """Put any number of records, in batches, and yield a result for each, in order."""
        for operations in batches.chunks(map(batches.rendered, records), chunk):
            yield from self._session.send(batches.batch(operations))

    def lease(self, guid: Guid | None = None, **options: Unpack[LeaseOptions]) -> Lease:
        """Return a lease to hold with `with`: a thread renews it. LeaseHeld if another client has it.

        Without a GUID, it is a lease of its own, which is deleted at the end. Otherwise it is one of an election, which
        is revoked at the end, so that the next holder gets a higher fencing token.
        """
        return Lease(self._session, plan_of(guid, options))

    def events(
        self, *, start: Start = "oldest", cursor: str | None = None, follow: bool = True, **filters: Unpack[EventFilter]
    ) -> EventFeed:
        """Return an iterator over the events of GUIDs, in order, after a cursor or else from the start.

        It waits for new events, even while the service does not respond, unless `follow` is False. EventsGone if the
        service does not have the events after the cursor any more.
        """
        return EventFeed(self._session, FeedPlan(query_of(filters), start, follow), cursor)

    @property
    def keys(self) -> Keys:
        """The API keys, for admins."""
        return Keys(self._session)

    def whoami(self) -> Identity:
        """Return the identity of the client's key: its owner, its scopes, and the rest of its limits."""
        return self._session.send(calls.whoami())

    def stats(self) -> Statistics:
        """Count the GUIDs of all owners, and those that expire in each of the next hours and days.

        The key needs the scope `monitor`.
        """
        return self._session.send(calls.stats())

    def ready(self) -> Readiness:
        """Return whether the service is ready, and the state of its parts."""
        return self._session.send(calls.ready())

    def version(self) -> str:
        """Return the version of the service."""
        return self._session.send(calls.version())
