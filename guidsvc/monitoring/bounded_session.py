"""A session of requests that reads only the beginning of each response: the receiver of traces may send without end."""

from io import BytesIO
from typing import Any

import requests
import urllib3

MAX_BYTES = 64 * 1024
"""Maximum size of a response that is read. Receivers send less, and nothing depends on the content."""


class BoundedSession(requests.Session):
    """A session whose responses have at most MAX_BYTES of content; the connection of a longer one is closed."""

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send a request, and return its response with the beginning of its content."""
        response = super().send(request, **kwargs | {"stream": True})
        content = response.raw.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            response.close()
        response.raw = urllib3.HTTPResponse(BytesIO(content[:MAX_BYTES]), preload_content=False)
        return response
