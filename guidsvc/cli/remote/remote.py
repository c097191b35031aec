"""The resources of a command: the client of the service, the form of the output, and notes for people."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import httpx2

from guidsvc.cli import output
from guidsvc.cli.remote.curl import capturing_http
from guidsvc.cli.remote.target import Target
from guidsvc.cli.rendering import Rendering
from guidsvc.program import program
from guidsvc.time_limit import TimeLimitExceeded, within
from guidsvc_client import Client, GuidsvcError, Problem, Sent
from guidsvc_client.transport import tls_context

TOTAL_SECONDS = 60.0
"""Maximum time of a request, except for the lines of a stream: the default of the client library."""


class TimeLimitedHttp(httpx2.Client):
    """An HTTP client that limits the time until the head of a response has arrived.

    The client library limits the time of the rest. It cannot limit that of a head: httpx2 limits only the wait for each
    of its bytes, and a server may send single bytes without end. A request runs on a thread, abandoned after the limit.
    """

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request. Raise ReadTimeout if the head of its response has not arrived in time."""
        try:
            return within(TOTAL_SECONDS, partial(super().send, request, **options))
        except TimeLimitExceeded as error:
            raise httpx2.ReadTimeout(str(error), request=request) from error


@dataclass
class Remote:
    """The service that a command talks to, and how the command prints."""

    target: Target
    rendering: Rendering
    is_curl: bool
    _has_retried: bool = False
    _http: TimeLimitedHttp | None = None

    @property
    def is_table(self) -> bool:
        """Whether people read the output."""
        return self.rendering.form == "table"

    @cached_property
    def client(self) -> Client:
        """The client. With `--curl`, it sends nothing."""
        if self.is_curl:
            key = "a key" if self.target.key else ""
            return Client(self.target.url, key=key, http=capturing_http(), retries=0)
        key = self.target.key.read() if self.target.key else ""
        self._http = TimeLimitedHttp(verify=tls_context(self.target.url))
        return Client(self.target.url, key=key, http=self._http, total_timeout=TOTAL_SECONDS, on_retry=self._note_retry)

    def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            self._http.close()

    def note(self, text: str) -> None:
        """Write a note to standard error, unless the command is quiet."""
        self.rendering.tell(f"{program()}: {text}")

    def warn(self, text: str) -> None:
        """Write a line to standard error, even if the command is quiet."""
        output.tell(f"{program()}: {text}")

    def _note_retry(self, _: Sent, error: GuidsvcError) -> None:
        if not self._has_retried:
            reason = error.detail if isinstance(error, Problem) else f"no response from {self.target.url}"
            self.note(f"{reason}; trying again")
        self._has_retried = True

    def print_one(self, document: Mapping[str, object], members: Callable[[], Mapping[str, object]]) -> None:
        """Print one object: a table of the members, or the document."""
        self.rendering.record(members() if self.is_table else document)
