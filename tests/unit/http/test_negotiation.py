"""Which media type a client would rather have."""

import pytest

from guidsvc.http.headers.negotiation import preferred

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
