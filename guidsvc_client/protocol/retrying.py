"""When to repeat a call: the table of docs/clients.md, as code.

A repetition is safe if nothing was done, or if it has no further effect. So a call that changes something is repeated
after a lost response only if it `is_repeatable`.
"""

import logging
import random
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypedDict, TypeVar
from uuid import uuid4

from tenacity import AsyncRetrying, RetryCallState, Retrying, stop_after_attempt, wait_exponential, wait_random

from guidsvc_client.clock import clock
from guidsvc_client.errors import Disconnected, GuidsvcError, TimedOut, UnexpectedResponse, Unreachable
from guidsvc_client.problems import InProgress, OutcomeUnknown, Problem, RateLimited, TooManyStreams, Unavailable
from guidsvc_client.protocol.call import Call, Reply
from guidsvc_client.protocol.values import number_of_seconds

T = TypeVar("T")
log = logging.getLogger("guidsvc_client")

NOT_DONE = (Unreachable, Unavailable, RateLimited, TooManyStreams, InProgress)
"""Errors that say that the request changed nothing, and may succeed later."""
PERHAPS_DONE = (Disconnected, TimedOut, OutcomeUnknown)
"""Errors after which the request may have taken effect."""
_PAUSE = wait_exponential(multiplier=0.1, max=2.0) + wait_random(0, 0.3)
"""Seconds to wait before an attempt if the service gives no time."""
LATE_SECONDS = 30.0
"""A repetition that is so much later than the time for repetitions is not sent."""
_OF_PROXIES = frozenset({502, 503, 504})
"""Statuses of a proxy that had no response of the service to pass on."""


def is_perhaps_done(error: Exception) -> bool:
    """Return whether a request may have taken effect although it failed."""
    of_proxy = isinstance(error, UnexpectedResponse) and error.status in _OF_PROXIES
    return of_proxy or isinstance(error, PERHAPS_DONE)


def is_temporary(error: Exception) -> bool:
    """Return whether the same request may succeed later."""
    return isinstance(error, NOT_DONE) or is_perhaps_done(error)


def should_repeat(call: Call[T], error: Exception) -> bool:
    """Return whether to send a call again after this error."""
    return isinstance(error, NOT_DONE) or (call.is_repeatable and is_perhaps_done(error))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A request as the hook `on_request` sees it: without the key. `attempt` counts from 1."""

    method: str
    target: str
    request_id: str
    attempt: int


class Options(TypedDict, total=False):
    """The options of a client: `timeout` and `total_timeout` in seconds, `retries`, and hooks.

    `on_request` is called before each request, `on_retry` before each repetition, with the error that caused it.
    """

    timeout: float
    total_timeout: float
    retries: int
    on_request: Callable[[Sent], None]
    on_retry: Callable[[Sent, GuidsvcError], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The timeouts and the retries of requests, and the hooks."""

    timeout_seconds: float = 6.0
    """Maximum wait for each part of a response: longer than the time limit of the service, which is 5 seconds."""
    total_seconds: float = 60.0
    """Maximum time of a request whose parts all arrive in time, at least `timeout_seconds`. Streams have none."""
    retries: int = 3
    retry_seconds: float = 10.0
    """Maximum time between the first attempt and the start of a repetition."""
    on_request: Callable[[Sent], None] | None = None
    on_retry: Callable[[Sent, GuidsvcError], None] | None = None

    @property
    def connect_seconds(self) -> float:
        """Maximum wait for a connection: 2 seconds by default."""
        return self.timeout_seconds / 3

    @classmethod
    def of(cls, options: Options) -> "Policy":
        """Return the policy of a client with these options."""
        given: dict[str, Any] = dict(options)
        if "timeout" in given:
            given["timeout_seconds"] = number_of_seconds(given.pop("timeout"), "timeout")
        if "total_timeout" in given:
            given["total_seconds"] = number_of_seconds(given.pop("total_timeout"), "total_timeout")
        return cls(**given)

    def within(self, seconds: float) -> "Policy":
        """Return a policy for calls that are useful only within this time."""
        return replace(
            self,
            timeout_seconds=min(self.timeout_seconds, seconds),
            total_seconds=min(self.total_seconds, seconds),
            retry_seconds=min(self.retry_seconds, seconds),
        )


class _Rules(TypedDict):
    """The arguments of tenacity's iterators of attempts."""

    stop: Callable[[RetryCallState], bool]
    wait: Callable[[RetryCallState], float]
    retry: Callable[[RetryCallState], bool]
    before_sleep: Callable[[RetryCallState], None]
    reraise: bool


@dataclass(slots=True)
class Attempts(Generic[T]):
    """The attempts of one call, with one request id for all of them."""

    call: Call[T]
    policy: Policy
    request_id: str = field(default_factory=lambda: uuid4().hex)
    _count: int = 0
    _error: GuidsvcError | None = None
    _asked_seconds: float | None = None
    """The seconds that the service asks to wait before the next attempt."""
    _doubt: GuidsvcError | None = None
    """The first error after which the request may have taken effect."""
    _is_settled: bool = False
    """Whether the outcome is decided, so that nothing is repeated."""
    _began: float = field(default_factory=clock)
    ends_at: float = 0.0
    """The time of `clock` at which the current attempt has used up its total time."""

    @contextmanager
    def judged(self) -> Generator[None]:
        """Within the block, replace a last error that denies any effect by the first error with unknown outcome."""
        try:
            yield
        except NOT_DONE as error:
            if self._doubt is None:
                raise
            raise self._doubt from error

    def context(self) -> Retrying:
        """Return the iterator of attempts."""
        return Retrying(**self._rules())

    def async_context(self) -> AsyncRetrying:
        """Return the iterator of attempts on an event loop."""
        return AsyncRetrying(**self._rules())

    def _rules(self) -> _Rules:
        return {
            "stop": stop_after_attempt(self.policy.retries + 1),
            "wait": self._pause_seconds,
            "retry": self._should_repeat,
            "before_sleep": self._log_failure,
            "reraise": True,
        }

    def begin(self) -> Mapping[str, str]:
        """Begin an attempt, and return the headers of its request.

        Raise the last error again if the host was suspended during the pause: others may have changed the record since.
        """
        if self._error is not None and clock() >= self._began + self.policy.retry_seconds + LATE_SECONDS:
            raise self._error
        self._count += 1
        self.ends_at = clock() + max(self.policy.total_seconds, self.policy.timeout_seconds) + self.call.wait_seconds
        sent = Sent(method=self.call.method, target=self.call.target, request_id=self.request_id, attempt=self._count)
        log.debug("%s %s, attempt %d, request %s", sent.method, sent.target, sent.attempt, sent.request_id)
        if self._error is not None and self.policy.on_retry:
            self.policy.on_retry(sent, self._error)
        if self.policy.on_request:
            self.policy.on_request(sent)
        return {**self.call.headers, "X-Request-Id": self.request_id}

    def result(self, reply: Reply) -> T:
        """Return the result of a response, or raise its error."""
        try:
            return self.call.result(reply)
        except Problem as problem:
            self._is_settled = self._doubt is not None and not is_temporary(problem)
            if self._is_settled:
                return self.call.settle(problem)
            raise

    def _should_repeat(self, state: RetryCallState) -> bool:
        """Return whether to try again. Record the error, and the requested wait."""
        error = None if state.outcome is None else state.outcome.exception()
        if self._is_settled or not isinstance(error, GuidsvcError) or not should_repeat(self.call, error):
            return False
        self._error = error
        if self.call.method != "GET" and is_perhaps_done(error):
            self._doubt = self._doubt or error
        asked = error.retry_after if isinstance(error, Problem) else None
        self._asked_seconds = None if asked is None else asked * _at_random(1, 1.2)
        return clock() + (self._asked_seconds or 0.0) < self._began + self.policy.retry_seconds

    def _pause_seconds(self, state: RetryCallState) -> float:
        return _PAUSE(state) if self._asked_seconds is None else self._asked_seconds

    def _log_failure(self, state: RetryCallState) -> None:
        log.info(
            "%s %s, attempt %d failed with %s, next in %.1f s, request %s",
            self.call.method,
            self.call.target,
            self._count,
            type(self._error).__name__,
            state.upcoming_sleep,
            self.request_id,
        )


def backoff_seconds(failures: int) -> float:
    """Return the seconds to wait after this number of failures of a task that is repeated without end."""
    return min(30.0, 0.25 * 2.0 ** min(failures, 10)) * _at_random(0.5, 1)


def _at_random(least: float, most: float) -> float:
    """Return a random number, so that clients do not all retry at the same time."""
    return random.uniform(least, most)  # noqa: S311  # nosec B311  # no secret
