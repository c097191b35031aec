"""The public address of the service, from the settings."""

import pytest

from guidsvc.errors import StartError
from guidsvc.http import public_url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", ""),
        ("https://registry.example", "https://registry.example"),
        ("https://registry.example/", "https://registry.example"),
        ("http://10.0.0.5:8888/guids/v1/", "http://10.0.0.5:8888/guids/v1"),
        ("HTTPS://[::1]:8443", "HTTPS://[::1]:8443"),
    ],
)
def test_address_is_accepted_without_its_last_slash(text: str, url: str) -> None:
    assert public_url.parse(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "registry.example",
        "//registry.example",
        "ftp://registry.example",
        "https://",
        "https://user:secret@registry.example",
        "https://registry.example?a=b",
        "https://registry.example#a",
        "https://registry.example//",
        "https://registry.example\n",
        "https://registry example",
        'https://registry.example/"',
        "https://registry.example/" + "a" * 100,
    ],
)
def test_other_text_stops_the_start(text: str) -> None:
    with pytest.raises(StartError, match=r"public_url: .* write a scheme, a host") as error:
        public_url.parse(text)
    assert "secret" not in str(error.value)
