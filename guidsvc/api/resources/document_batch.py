"""A batch that comes as one JSON document: its operations are done a group at a time, and answered by one document.

The answer has a bound in bytes. Each operation has room for its result in brief from the start; records are shown as
long as there is room beside that.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

from guidsvc.api.resources.batch_executor import BRIEF_BYTES, GROUP, BatchExecutor, ParsedOperation, Result, read_value
from guidsvc.domain.guid_generator import ClaimedDraw
from guidsvc.errors import GuidsvcError
from guidsvc.http.response import Response
from guidsvc.services import write_attempt as attempts
from guidsvc.services.idempotency import GuidFactory

MAX_RESULT_BYTES = 4 * 1024 * 1024
"""The size of an answer: where a record has no room, its result is in brief."""
READ_AT_ONCE = 16
"""So many operations are validated in one turn of the event loop."""


class DocumentBatch:
    """The operations of a document, as JSON values; `applied` are headers of the answer.

    `confirm` raises what ends the caller's authority; the operations that are left are then answered with that.
    """

    def __init__(
        self,
        values: Sequence[Any],
        performer: BatchExecutor,
        place: Callable[..., AbstractAsyncContextManager[object]],
        confirm: Callable[[], Awaitable[None]],
        applied: Mapping[str, str],
    ) -> None:
        self._values = values
        self._performer = performer
        self._place = place
        self._confirm = confirm
        self._applied = dict(applied)
        self._briefs: list[bytes] = []

    async def perform(self, draws: GuidFactory | None) -> Response:
        """Do all of it."""
        texts: list[bytes] = []
        room = MAX_RESULT_BYTES - len(self._values) * (BRIEF_BYTES + 1)
        for start in range(0, len(self._values), GROUP):  # read group by group too: others are served in between
            group = self._values[start : start + GROUP]
            for result in await self._do(group, start, draws and partial(_from, draws, start)):
                text = result.within(room + BRIEF_BYTES)
                room -= len(text) - BRIEF_BYTES
                texts.append(text)
                self._briefs.append(result.brief)
        return Response(200, self._applied, _document(texts))

    def brief(self) -> Response:
        """Return the answer without records."""
        return Response(200, {"Preference-Applied": "return=minimal"}, _document(self._briefs))

    async def _do(self, values: Sequence[Any], start: int, draws: GuidFactory | None) -> list[Result]:
        try:
            if start:
                await self._confirm()
        except GuidsvcError as error:
            _note(is_refused=True)
            return [self._performer.refuse(error)] * len(values)
        asked = await _read(values)
        async with self._place(patient=start > 0):
            results = await self._performer.perform(asked, draws)
        _note(has_done=any(result.is_done for result in results))
        return results


async def _read(values: Sequence[Any]) -> list[ParsedOperation]:
    asked: list[ParsedOperation] = []
    for value in values:
        if asked and len(asked) % READ_AT_ONCE == 0:
            await asyncio.sleep(0)  # others are served in between, however large the metadata are
        asked.append(read_value(value))
    return asked


def _document(results: Sequence[bytes]) -> str:
    return f'{{"results":[{b",".join(results).decode()}]}}'


def _from(draws: GuidFactory, start: int, place: int) -> ClaimedDraw:
    """Draw for a place in the group that begins there."""
    return draws(start + place)


def _note(*, is_refused: bool = False, has_done: bool = False) -> None:
    """Note of the attempt under way whether its answer may be given again."""
    attempt = attempts.CURRENT.get()
    if attempt is not None:
        attempt.is_refused |= is_refused
        attempt.has_done = bool(attempt.has_done) or has_done
