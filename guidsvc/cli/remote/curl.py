"""The request of a command as a line for a shell: `--curl` prints it and sends nothing.

The client builds the request as usual, and a transport that never connects captures it.
"""

import json
import shlex

import httpx2

from guidsvc.cli.remote.documents import json_text

_NAMES = {
    "accept": "Accept",
    "content-type": "Content-Type",
    "if-match": "If-Match",
    "if-none-match": "If-None-Match",
    "idempotency-key": "Idempotency-Key",
    "prefer": "Prefer",
}
"""The headers that matter. curl sets the others itself."""
KEY_HEADER = '--header "Authorization: Bearer $GUIDSVC_KEY"'
BASE = "curl --silent --show-error --fail-with-body"


class RequestCaptured(Exception):
    """A request that was built, and is not sent. No error: it carries the request out of the client."""

    def __init__(self, request: httpx2.Request) -> None:
        super().__init__("a request that is not sent")
        self.request = request


class CapturingTransport(httpx2.BaseTransport):
    """A transport that raises each request instead of sending it."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Raise the request."""
        request.read()
        raise RequestCaptured(request)


def capturing_http() -> httpx2.Client:
    """Return an HTTP client that sends nothing."""
    return httpx2.Client(transport=CapturingTransport(), trust_env=False)


def curl_line(request: httpx2.Request, *options: str) -> str:
    """Return the line that sends a request with curl; the key is a variable of the shell."""
    method = [] if request.method == "GET" else [f"--request {request.method}"]
    headers = [
        f"--header {shlex.quote(f'{name}: {request.headers[key]}')}"
        for key, name in _NAMES.items()
        if request.headers.get(key, "*/*") != "*/*"
    ]
    key = [KEY_HEADER] if "authorization" in request.headers else []
    body = [f"--data-binary {shlex.quote(_text(request.content))}"] if request.content else []
    return " ".join([BASE, *options, *method, *key, *headers, *body, quoted_url(str(request.url))])


def quoted_url(url: str) -> str:
    """Return an address as words of a command line; curl would take brackets in it for a pattern."""
    return f"--globoff {shlex.quote(url)}" if "[" in url else shlex.quote(url)


def _text(content: bytes) -> str:
    """Return a body of JSON with its special characters escaped, so that a terminal shows what will be sent."""
    return json_text(json.loads(content))  # noqa: TID251  # the text of this program
