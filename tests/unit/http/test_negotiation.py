"""The media type and the content coding that a client prefers."""

import pytest

from guidsvc.http.headers.negotiation import accepts_gzip, preferred

OFFERS = ("application/json", "application/x-ndjson")


@pytest.mark.parametrize(
    ("accept", "offer"),
    [
        (None, 0),
        ("", 0),
        ("*/*", 0),
        ("text/html", 0),
        ("application/x-ndjson", 1),
        ("Application/X-NDJSON", 1),
        ("application/*", 0),
        ("application/json;q=0.5, application/x-ndjson", 1),
        ("application/json ; q=0.5 , application/x-ndjson;q=0.4", 0),
        ("application/*, application/json;q=0.1", 1),
        ("*/*;q=0.1, application/x-ndjson", 1),
        ("application/json;q=0, */*", 1),
        ("application/x-ndjson;q=x", 1),
    ],
)
def test_highest_weighted_offer_wins_and_the_first_among_equals(accept: str | None, offer: int) -> None:
    assert preferred(accept, OFFERS) == OFFERS[offer]


@pytest.mark.parametrize(
    ("accept_encoding", "accepted"),
    [
        (None, False),
        ("", False),
        ("identity", False),
        ("br", False),
        ("gzip", True),
        ("GZip", True),
        ("x-gzip", True),
        ("*", True),
        ("gzip, deflate, br, zstd", True),
        ("gzip;q=0", False),
        ("gzip;q=0.0, *", False),
        ("*;q=0", False),
        ("gzip;q=0.5", True),
        ("gzip;q=0.5, identity", False),
        ("identity;q=0.5, gzip;q=1.0", True),
        ("deflate, gzipped", False),
    ],
)
def test_gzip_is_sent_only_if_accepted(accept_encoding: str | None, *, accepted: bool) -> None:
    assert accepts_gzip(accept_encoding) is accepted
