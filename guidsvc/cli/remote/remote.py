"""The resources of a command: the client of the service, the form of the output, and notes for people."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from guidsvc.cli import output
from guidsvc.cli.remote.curl import capturing_http
from guidsvc.cli.remote.target import Target
from guidsvc.cli.rendering import Rendering
from guidsvc.program import program
from guidsvc_client import Client, GuidsvcError, Problem, Sent


@dataclass
class Remote:
    """The service that a command talks to, and how the command prints."""

    target: Target
    rendering: Rendering
    is_curl: bool
    _has_retried: bool = False

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
        return Client(self.target.url, key=key, on_retry=self._note_retry)

    def close(self) -> None:
        """Close the connections."""
        if "client" in self.__dict__:
            self.client.close()

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
