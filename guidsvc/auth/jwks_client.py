"""Fetches a key set over HTTP. What is in it is for `guidsvc.auth.jwks` to say."""

from tornado.httpclient import HTTPClientError
from tornado.simple_httpclient import SimpleAsyncHTTPClient

SECONDS = 5.0
"""In which all of it must have come."""


async def fetch(url: str, most: int) -> bytes:
    """Return what a URL holds; OSError if it cannot be had, or is of more than so many bytes.

    A redirect is not followed: who is trusted is the host that the settings name, and no other. Nor is anything
    unpacked, since what is small may become large.
    """
    client = SimpleAsyncHTTPClient(force_instance=True, max_body_size=most)
    try:
        answer = await client.fetch(
            url,
            connect_timeout=SECONDS,
            request_timeout=SECONDS,
            follow_redirects=False,
            decompress_response=False,
            headers={"Accept": "application/jwk-set+json, application/json"},
        )
    except HTTPClientError as error:
        raise OSError(str(error)) from error
    finally:
        client.close()
    return answer.body
