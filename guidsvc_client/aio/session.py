"""The session of the async client: sends calls with their retries, and performs flows."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from itertools import count
from typing import Any, TypeVar

import httpx2

from guidsvc_client.clock import clock
from guidsvc_client.errors import GuidsvcError, NoResponse
from guidsvc_client.protocol.call import Call, Flow, Pause, Reply
from guidsvc_client.protocol.ndjson import LineReader, truncated
from guidsvc_client.protocol.retrying import Attempts, Policy
from guidsvc_client.transport import BoundedReply, Service, own_errors

T = TypeVar("T")
_PIECES_AT_ONCE = 64
"""Number of pieces of a response that are read before other tasks run, however many have arrived."""


class AsyncSession:
    """Connections to the service, and the policy of retries."""

    def __init__(self, service: Service, policy: Policy, http: httpx2.AsyncClient) -> None:
        self.policy = policy
        self._service = service
        self._http = http

    def with_policy(self, policy: Policy) -> "AsyncSession":
        """Return a session with the same connections and another policy."""
        return AsyncSession(self._service, policy, self._http)

    async def send(self, call: Call[T]) -> T:
        """Send a call, repeat it if necessary, and return its result."""
        attempts = Attempts(call, self.policy)
        with attempts.judged():
            async for attempt in attempts.async_context():
                with attempt:
                    async with aclosing(await self._open(attempts)) as response:
                        return attempts.result(await self._read(response, attempts))
        raise AssertionError("the last attempt returns or raises")

    async def lines(self, call: Call[None], read: Callable[[Any], T]) -> AsyncGenerator[T, None]:
        """Yield what `read` returns for the JSON of each line. Only a stream that has not begun is opened again."""
        attempts = Attempts(call, self.policy)
        async with aclosing(await self._opened(attempts)) as response:
            reader, pieces = LineReader(read), count(1)
            try:
                with own_errors(attempts.request_id):
                    async for piece in response.aiter_raw():
                        for value in reader.feed(piece):
                            yield value
                        await _let_others_run(next(pieces))
            except NoResponse as error:
                raise truncated(error) from error
            reader.end()

    async def run(self, flow: Flow[T]) -> T:
        """Perform the steps of a flow, and return its result."""
        try:
            step = next(flow)
            while True:
                try:
                    result = await self._perform(step)
                except GuidsvcError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(result)
        except StopIteration as end:
            value: T = end.value
            return value

    async def _perform(self, step: Call[Any] | Pause) -> Any:
        return await (asyncio.sleep(step.seconds) if isinstance(step, Pause) else self.send(step))

    async def _opened(self, attempts: Attempts[None]) -> httpx2.Response:
        """Open a stream, and repeat that if necessary."""
        async for attempt in attempts.async_context():
            with attempt:
                response = await self._open(attempts)
                if response.is_success:
                    return response
                async with aclosing(response):
                    attempts.result(await self._read(response, attempts))
        raise AssertionError("the last attempt returns or raises")

    async def _open(self, attempts: Attempts[Any]) -> httpx2.Response:
        """Send a request, and return its response before its content."""
        with own_errors(attempts.request_id):
            request = self._http.build_request(**self._service.request(attempts))
            async with asyncio.timeout(attempts.ends_at - clock()):
                return await self._http.send(request, stream=True)

    async def _read(self, response: httpx2.Response, attempts: Attempts[Any]) -> Reply:
        whole = BoundedReply(response, self._service.public_url, attempts.ends_at)
        parts = count(1)
        with own_errors(attempts.request_id):
            async for part in response.aiter_raw():
                whole.add(part)
                await _let_others_run(next(parts))
        return whole.reply()


async def _let_others_run(piece: int) -> None:
    """Let other tasks run after every few pieces. The pieces that have arrived together never make this one wait."""
    if piece % _PIECES_AT_ONCE == 0:
        await asyncio.sleep(0)
