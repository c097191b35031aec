"""HTTP client that fetches a JWK set. `guidsvc.auth.tokens.jwks` has it parsed."""

from tornado.httpclient import HTTPClientError
from tornado.simple_httpclient import HTTPStreamClosedError, HTTPTimeoutError, SimpleAsyncHTTPClient

SECONDS = 5.0
"""Time limit of a fetch, in seconds."""


async def fetch(url: str, max_bytes: int) -> bytes:
    """Return the body at a URL; raise OSError if the fetch fails or the body exceeds `max_bytes` bytes.

    Redirects are not followed: only the configured host is trusted. Bodies are not decompressed, since a small one
    may expand to a large one.
    """
    client = SimpleAsyncHTTPClient(force_instance=True, max_body_size=max_bytes)
    try:
        response = await client.fetch(
            url,
            connect_timeout=SECONDS,
            request_timeout=SECONDS,
            follow_redirects=False,
            decompress_response=False,
            headers={"Accept": "application/jwk-set+json, application/json"},
        )
    except HTTPTimeoutError as error:
        raise TimeoutError(f"no answer within {SECONDS:g} s") from error
    except HTTPStreamClosedError as error:
        reason = f"the connection was closed early, or the response is larger than {max_bytes} bytes"
        raise OSError(reason) from error
    except HTTPClientError as error:
        raise OSError(str(error)) from error
    except OSError:
        raise
    except Exception as error:  # of many kinds, for what is no response of HTTP, or has a head of more than 64 KiB
        raise OSError(f"the response cannot be read ({type(error).__name__})") from error
    finally:
        client.close()
    return response.body
