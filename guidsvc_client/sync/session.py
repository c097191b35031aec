"""The session of the sync client: sends calls with their retries, and performs flows. Threads may share it."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, TypeVar

import httpx2

from guidsvc_client.errors import GuidsvcError, NoResponse
from guidsvc_client.protocol.call import Call, Flow, Pause, Reply
from guidsvc_client.protocol.ndjson import LineReader, truncated
from guidsvc_client.protocol.retrying import Attempts, Policy
from guidsvc_client.sync.head_limit import ending_at
from guidsvc_client.transport import BoundedReply, Service, own_errors

T = TypeVar("T")


class Session:
    """Connections to the service, and the policy of retries."""

    def __init__(self, service: Service, policy: Policy, http: httpx2.Client) -> None:
        self.policy = policy
        self._service = service
        self._http = http

    def with_policy(self, policy: Policy) -> "Session":
        """Return a session with the same connections and another policy."""
        return Session(self._service, policy, self._http)

    def send(self, call: Call[T]) -> T:
        """Send a call, repeat it if necessary, and return its result."""
        attempts = Attempts(call, self.policy)
        with attempts.judged():
            for attempt in attempts.context():
                with attempt, closing(self._open(attempts)) as response:
                    return attempts.result(self._read(response, attempts))
        raise AssertionError("the last attempt returns or raises")

    def lines(self, call: Call[None], read: Callable[[Any], T]) -> Iterator[T]:
        """Yield what `read` returns for the JSON of each line. Only a stream that has not begun is opened again."""
        attempts = Attempts(call, self.policy)
        with closing(self._opened(attempts)) as response:
            reader = LineReader(read)
            try:
                with own_errors(attempts.request_id):
                    for piece in response.iter_raw():
                        yield from reader.feed(piece)
            except NoResponse as error:
                raise truncated(error) from error
            reader.end()

    def run(self, flow: Flow[T]) -> T:
        """Perform the steps of a flow, and return its result."""
        try:
            step = next(flow)
            while True:
                try:
                    result = self._perform(step)
                except GuidsvcError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(result)
        except StopIteration as end:
            value: T = end.value
            return value

    def _perform(self, step: Call[Any] | Pause) -> Any:
        return time.sleep(step.seconds) if isinstance(step, Pause) else self.send(step)

    def _opened(self, attempts: Attempts[None]) -> httpx2.Response:
        """Open a stream, and repeat that if necessary."""
        for attempt in attempts.context():
            with attempt:
                response = self._open(attempts)
                if response.is_success:
                    return response
                with closing(response):
                    attempts.result(self._read(response, attempts))
        raise AssertionError("the last attempt returns or raises")

    def _open(self, attempts: Attempts[Any]) -> httpx2.Response:
        """Send a request, and return its response before its content."""
        with own_errors(attempts.request_id):
            request = self._http.build_request(**self._service.request(attempts))
            with ending_at(attempts.ends_at):
                return self._http.send(request, stream=True)

    def _read(self, response: httpx2.Response, attempts: Attempts[Any]) -> Reply:
        whole = BoundedReply(response, self._service.public_url, attempts.ends_at)
        with own_errors(attempts.request_id):
            for part in response.iter_raw():
                whole.add(part)
        return whole.reply()
