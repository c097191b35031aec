"""A client of the service over a real socket, and what it gets back."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.httputil import HTTPHeaders


class Reply(NamedTuple):
    """A reply of the service."""

    status: int
    headers: HTTPHeaders
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which must be JSON."""
        return json.loads(self.body)


class Client:
    """Asks the service on a port of this host. Give `json` for a body that is JSON, `body` for any other."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._http = AsyncHTTPClient(force_instance=True, max_clients=500)

    async def ask(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send one request and return the reply, whatever its status."""
        if json is not None:
            body = _dump(json)
        typed = {} if json is None else {"Content-Type": "application/json"}
        request = HTTPRequest(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            headers=typed | dict(headers or {}),
            body=body,
            allow_nonstandard_methods=True,
            follow_redirects=False,
            request_timeout=30,
        )
        response = await self._http.fetch(request, raise_error=False)
        if response.code == 599:  # Tornado's own number for "there was no reply"
            assert response.error is not None
            raise response.error
        return Reply(response.code, response.headers, response.body or b"")

    async def get(self, path: str, **options: Any) -> Reply:
        return await self.ask("GET", path, **options)

    async def put(self, path: str, json: object = None, **options: Any) -> Reply:
        return await self.ask("PUT", path, json=json, **options)

    async def post(self, path: str, json: object = None, **options: Any) -> Reply:
        return await self.ask("POST", path, json=json, **options)

    async def delete(self, path: str, **options: Any) -> Reply:
        return await self.ask("DELETE", path, **options)

    def close(self) -> None:
        self._http.close()


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
