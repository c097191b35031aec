"""API keys and tokens that a client mistakenly sends in a path or a request id."""

from base64 import urlsafe_b64encode

import pytest

from guidsvc.domain import api_key as keys
from guidsvc.http.headers.request_id import request_id
from guidsvc.monitoring.logs.access_log import without_secrets

KEY = keys.format_key("4rGcVd0Xq2Lb", "s" * keys.SECRET_CHARACTERS)
JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"
SPACED_JWTS = [
    urlsafe_b64encode(b"{" + blank + b'"alg": "ES256"}').decode().rstrip("=") + JWT[20:]
    for blank in (b" ", b"\n", b"\r\n", b"\t")
]
"""Tokens whose header has whitespace behind its brace; a verifier accepts them."""


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        (f"/{KEY}", "/gs_4rGcVd0Xq2Lb_..."),
        (f"/keys/{KEY}/rotation", "/keys/gs_4rGcVd0Xq2Lb_.../rotation"),
        (f"/x{KEY[:30]}", "/xgs_4rGcVd0Xq2Lb_..."),
        (f"/GS_{KEY[3:]}", "/GS_4rGcVd0Xq2Lb_..."),
        (f"/gs_/{KEY[3:]}", "/gs_/4rGcVd0Xq2Lb_..."),
        (f"/gs_/{KEY[3:30]}", "/gs_/4rGcVd0Xq2Lb_..."),
        (f"/{KEY[3:]}", "/4rGcVd0Xq2Lb_..."),
        (f"/{KEY[:20]}%0A{KEY[20:]}", "/gs_4rGcVd0Xq2Lb_..."),
        (f"/gs_%2F{KEY[3:]}", "/gs_/4rGcVd0Xq2Lb_..."),
        (f"/{JWT}", "/eyJ..."),
        *((f"/{token}", f"/{token[:3]}...") for token in SPACED_JWTS),
        ("/frameworks-of-a-company-whose-name-is-long", "/frameworks-of-a-company-whose-name-is-long"),
        ("/guid:batch_of_logs_0123456789ab", "/guid:batch_of_logs_0123456789ab"),
        (
            "/01JD3V3M4K5N6P7Q8R9S0T1V2W_01JD3V3M4K5N6P7Q8R9S0T1V2W",
            "/01JD3V3M4K5N6P7Q8R9S0T1V2W_01JD3V3M4K5N6P7Q8R9S0T1V2W",
        ),
    ],
)
def test_logged_path_has_no_secret(path: str, logged: str) -> None:
    assert without_secrets(path) == logged


@pytest.mark.parametrize("client_id", [KEY, f"a-{KEY}", f"GS_{KEY[3:]}", KEY[3:], JWT, *SPACED_JWTS])
def test_request_id_with_a_secret_is_replaced(client_id: str) -> None:
    assert request_id(client_id) != client_id


@pytest.mark.parametrize("client_id", ["logs_1", "a" * 128, "01JD3V3M4K5N6P7Q8R9S0T1V2W_01JD3V3M4K5N6P7Q8R9S0T1V2W"])
def test_request_id_without_secrets_is_repeated(client_id: str) -> None:
    assert request_id(client_id) == client_id
