"""A batch in one JSON document: runs its operations group by group, and renders the results as one document.

The response is bounded in bytes. Room for the brief result of each operation is reserved from the start; the rest is
for whole results, in order.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from itertools import islice
from time import perf_counter
from typing import Any

from guidsvc.api.execution.response_codec import Parts, encode_response
from guidsvc.api.parsing import body
from guidsvc.api.parsing.validation_errors import pointer, unknown_name
from guidsvc.api.resources.batch.executor import BRIEF_BYTES, GROUP, BatchExecutor, Result
from guidsvc.api.resources.batch.operations import ParsedOperation, read_values
from guidsvc.api.resources.batch.served_record import ServedRecord
from guidsvc.api.resources.batch.stored_results import (
    MINIMAL,
    StoredResults,
    encode_results,
    find_unknown,
    is_unknown,
    parts_with,
    render_results,
    shorten,
)
from guidsvc.domain.commands import MAX_OPERATIONS
from guidsvc.domain.guid_generator import GuidGenerator
from guidsvc.errors import GuidsvcError, InvalidField, InvalidRequest, ShuttingDown
from guidsvc.http.constants import NDJSON
from guidsvc.http.response import Response
from guidsvc.services.idempotency import GuidFactory, RequestBody
from guidsvc.services.writes import write_attempt

MAX_RESULT_BYTES = 4 * 1024 * 1024
"""Maximum size of a response. Results that do not fit are brief."""
READ_AT_ONCE, READ_SECONDS = 4, 0.002
"""Number of operations that are validated without a look at the clock, and the time after which the next take a turn.

One with costly metadata takes 0.3 ms, and a plain one some microseconds.
"""
_EXAMPLE = '{"operations": [{"user": "Cylance, Inc."}]}'


class DocumentBatch:
    """The operations of a document, as JSON values. `preference_headers` are headers of the response.

    If the caller loses its authority, the error becomes the result of the remaining operations.
    """

    def __init__(
        self,
        values: Sequence[Any],
        executor: BatchExecutor,
        slot: Callable[..., AbstractAsyncContextManager[object]],
        take_turn: Callable[[], Awaitable[None]],
        preference_headers: Mapping[str, str],
    ) -> None:
        self._values = values
        self._executor = executor
        self._slot = slot
        self._take_turn = take_turn
        self._preference_headers = dict(preference_headers)
        self._results: list[bytes] = []
        self._brief_results: list[bytes] = []
        self._served: dict[int, ServedRecord] = {}
        self._unknown: list[int] = []  # positions of creations with an unknown outcome
        self._parts: Parts | None = None
        self._stored: StoredResults | None = None
        self._must_end = False

    def stop(self) -> None:
        """End a batch without an Idempotency-Key after its present group, as the service is about to end.

        With a key, the client can repeat the whole batch: the results of one that ended early would be repeated to it.
        """
        self._must_end = True

    async def perform(self, guid_factory: GuidFactory | None) -> Response:
        """Run all operations and return the response."""
        results = self._results
        room = MAX_RESULT_BYTES - len(self._values) * (BRIEF_BYTES + 1)
        for start in range(0, len(self._values), GROUP):  # other requests run between groups
            group = self._values[start : start + GROUP]
            for result in await self._execute_group(
                group, start, guid_factory and partial(_guid_at, guid_factory, start)
            ):
                text = result.fit(room + BRIEF_BYTES)
                served = result.record_served_by(text)
                if served is not None:
                    self._served[len(results)] = served
                room -= (len(text) if served is None else max(len(text), BRIEF_BYTES)) - BRIEF_BYTES
                if is_unknown(self._values[len(results)], result):
                    self._unknown.append(len(results))
                results.append(text)
                self._brief_results.append(result.brief)
        await self._replace_outdated()
        response = Response(200, self._preference_headers, render_results(results))
        self._parts = parts_with(results, self._unknown)
        if not self._served:  # no result can become outdated
            results.clear()
        return response

    async def refresh(self, response: Response) -> Response:
        """Return the response, with the results of reads replaced that would fail by now."""
        has_changed = await self._replace_outdated()
        return Response(200, self._preference_headers, render_results(self._results)) if has_changed else response

    def encode(self, response: Response) -> bytes:
        """Encode the response of `perform`, and which of its results are unknown."""
        return encode_response(response, self._parts)

    async def resume(self, encoded: bytes) -> RequestBody | None:
        """Return a function that repeats the creations with unknown outcome in a response; None if there are none."""
        stored = await find_unknown(encoded, len(self._values), MAX_RESULT_BYTES)
        return None if stored is None else partial(self._resume, stored)

    async def _resume(self, stored: StoredResults, guid_factory: GuidFactory | None) -> bytes:
        """Execute the unknown creations of a stored response again, and return the encoded response."""
        self._stored = stored
        for start in range(0, len(stored.unknown), GROUP):
            indexes = stored.unknown[start : start + GROUP]
            values = [self._values[index] for index in indexes]
            guids = guid_factory and partial(_guid_of, guid_factory, indexes)
            for index, result in zip(indexes, await self._execute_group(values, start, guids), strict=True):
                if not result.is_failure:
                    stored.replace(index, result)
        return stored.encode()

    async def _replace_outdated(self) -> bool:
        """Replace the results of reads that would fail by now; return whether there were any."""
        has_changed = False
        while errors := self._errors():
            has_changed = True
            for index, error in errors.items():  # others may become outdated meanwhile
                del self._served[index]
                result = self._executor.reject(error)
                self._results[index] = result.fit(max(len(self._results[index]), BRIEF_BYTES))
                self._brief_results[index] = result.brief
                await asyncio.sleep(0)  # let other requests run
        return has_changed

    def _errors(self) -> dict[int, GuidsvcError]:
        """Return the errors of the reads that would fail by now."""
        errors = {index: self._executor.error_of(served) for index, served in self._served.items()}
        return {index: error for index, error in errors.items() if error is not None}

    def shorter(self) -> Iterator[bytes]:
        """Yield the response without records, and then without details; of a stored response, see `StoredResults`."""
        if self._stored is not None:
            yield from self._stored.shorter()
            return
        yield encode_results(MINIMAL, self._brief_results, self._unknown)
        yield encode_results(MINIMAL, list(map(shorten, self._brief_results)), self._unknown)

    async def _execute_group(self, values: Sequence[Any], start: int, guid_factory: GuidFactory | None) -> list[Result]:
        if self._must_end and start and guid_factory is None:
            return [self._executor.reject(ShuttingDown("the service is shutting down"))] * len(values)
        operations = await self._read(values)
        async with self._slot(patient=start > 0):
            try:
                await _require_claim()
                results = await self._executor.perform(operations, guid_factory)
            except GuidsvcError as error:
                if not start:  # nothing was executed: reject the whole request
                    raise
                results = [self._executor.reject(error)] * len(values)
        _record_outcome(has_done=any(result.is_done for result in results))
        return results

    async def _read(self, values: Sequence[Any]) -> list[ParsedOperation]:
        operations: list[ParsedOperation] = []
        since = perf_counter()
        for start in range(0, len(values), READ_AT_ONCE):
            if perf_counter() - since >= READ_SECONDS:
                await self._take_turn()  # let other requests run, however large the metadata is
                since = perf_counter()
            operations += read_values(values[start : start + READ_AT_ONCE])
        return operations


def require_text(text: bytes) -> bytes:
    """Return the text of a document; raise InvalidRequest if it is empty."""
    if not text or text.isspace():
        raise InvalidRequest(InvalidField("", f"is empty; send a JSON object, such as {_EXAMPLE}"))
    return text


def operations_of(document: Any) -> list[Any]:
    """Return the operations of a JSON document; raise InvalidRequest if it holds none, too many, or anything else."""
    if isinstance(document, list):
        detail = 'the body must be a JSON object; wrap the list: {"operations": [...]}'
        raise InvalidRequest(InvalidField("/operations", detail, is_clause=True))
    members: dict[str, Any] = document if isinstance(document, dict) else {}
    unknown = list(islice((name for name in members if name != "operations"), body.MAX_MEMBERS))
    details = (unknown_name(name, "member", ("operations",), count) for count, name in enumerate(unknown, 1))
    faults = list(map(InvalidField, map(pointer, unknown), details))
    operations = members.get("operations")
    if not isinstance(operations, list):
        faults.append(InvalidField("/operations", f"must be a list of operations, as in {_EXAMPLE}"))
        raise InvalidRequest(*faults)
    if faults:
        raise InvalidRequest(*faults)
    if len(operations) > MAX_OPERATIONS:
        detail = f"has over {MAX_OPERATIONS} operations; send them as lines ({NDJSON})"
        raise InvalidRequest(InvalidField("/operations", detail))
    return operations


def _guid_at(guid_factory: GuidFactory, start: int, index: int) -> GuidGenerator:
    """Generate a GUID for an operation of the group that starts at `start`."""
    return guid_factory(start + index)


def _guid_of(guid_factory: GuidFactory, indexes: Sequence[int], index: int) -> GuidGenerator:
    """Generate a GUID for one of the operations with these positions."""
    return guid_factory(indexes[index])


async def _require_claim() -> None:
    """Raise LeaseExpired if the claim of a request with an Idempotency-Key has ended: a retry was told so."""
    attempt = write_attempt.CURRENT.get()
    if attempt is not None:
        await attempt.not_after()


def _record_outcome(*, has_done: bool) -> None:
    """Record in the current write attempt, if any, whether its response must be stored for replay."""
    attempt = write_attempt.CURRENT.get()
    if attempt is not None:
        attempt.has_done = bool(attempt.has_done) or has_done
