"""The checks of all settings before anything is opened."""

from pathlib import Path

import pytest

from guidsvc.bootstrap.validation import load, unused
from guidsvc.config import PREFIX, Settings
from guidsvc.errors import InvalidSettings
from tests.support.certificates import Certificate

NAME_JWKS = "name a file that this user can read, or an https:// URL"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def faults_of(*arguments: str) -> list[str]:
    """Return the faults of these settings."""
    with pytest.raises(InvalidSettings) as error:
        load(arguments)
    return list(error.value.faults)


def test_settings_without_effect_are_checked_too(folder: Path) -> None:
    arguments = ["--access", "off", "--rate-limit", "nonsense", "--jwt-jwks", "/no/such", "--login-limit", "0/minute"]

    assert faults_of(*arguments) == [
        "rate_limit: invalid limit 'nonsense'; use 20000/second, 600/minute, or an empty value for no limit",
        "login_limit: invalid limit '0/minute'; use 20000/second, 600/minute, or an empty value for no limit",
        f"jwt_jwks: cannot use /no/such: No such file or directory; {NAME_JWKS}",
    ]
    assert list(folder.iterdir()) == [], "nothing is opened"


def test_faults_of_values_and_meanings_are_listed_together() -> None:
    assert [fault.partition(": ")[0] for fault in faults_of("--port", "x", "--prt", "1", "--hosts", "a b")] == [
        "unrecognized arguments",
        "port",
        "hosts",
    ]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--trusted-proxies", "10.0.0.0/8,x"], "trusted_proxies: 'x' does not appear"),
        (["--hosts", "a,,b"], "hosts: an item of the list is empty; remove a comma, or write the item"),
        (["--trusted-proxies", "unix,"], "trusted_proxies: an item of the list is empty; remove a comma"),
        (["--cors-origins", "http://a, http://a"], "cors_origins: 'http://a' is in the list twice; remove one"),
        (["--warn-before", "1h,,2h"], "warn_before: an item of the list is empty; remove a comma"),
        (["--warn-before", "1h,1h"], "warn_before: '1h' is in the list twice; remove one"),
        (["--warn-before", "1h,60m"], "warn_before: '60m' is in the list twice; remove one"),
        (["--hosts", "http://a"], "hosts: 'http://a' is not a host name"),
        (["--public-url", "registry"], "public_url: this is not the address of a service"),
        (["--cors-origins", "a.example"], "cors_origins: "),
        (["--warn-before", "1d,soon"], "warn_before: 'soon' must be a number of seconds or a duration"),
        (["--warn-before", "500ms"], "warn_before: '500ms' must be a whole number of seconds"),
        (["--warn-before", "0"], "warn_before: '0' must be 1 second or more"),
        (["--warn-before", "5,4,3,2,1"], "warn_before: 5 durations are too many; use at most 4"),
        (["--tls-cert", "cert.pem"], "tls_cert, tls_key: TLS requires both"),
        (
            ["--tls-cert", "cert.pem", "--tls-key", "key.pem"],
            "tls_cert, tls_key: cert.pem: No such file or directory; name a PEM file",
        ),
        (["--store-url", "postgres://h/x"], "store_url: unsupported store postgres"),
        (["--store-url", "sqlite:///:memory:"], "store_url: name a file"),
        (["--store-url", "mongodb://h/x?nonsense=1"], "store_url: Unknown option: nonsense"),
        (
            ["--cache-url", "redis://h/x"],
            "cache_url: /x is not the number of a Redis database; write one, as in redis://",
        ),
        (["--cache-url", "disk://"], "cache_url: unsupported cache disk"),
        (["--workers", "2"], "workers: 2 need a shared cache"),
        (["--host", "0.0.0.0"], "access: required"),
        (["--rate-limit", "1/second"], "rate_limit: has no effect while access is off"),
        (["--access", "keys", "--jwt-jwks", "https://a.example/jwks"], "jwt_issuer, jwt_audience: both are required"),
        (["--access", "off", "--jwt-jwks", "http://a.example/jwks"], "jwt_jwks: name a file, an https:// URL"),
        (
            ["--audit-log", "missing/audit.log"],
            "audit_log: cannot write missing/audit.log: No such file or directory; create its folder",
        ),
        (["--audit-log", "."], "audit_log: cannot write .: Is a directory; name a file"),
        (
            ["--audit-log", "a" * 256],
            f"audit_log: cannot write {'a' * 256}: File name too long; name another file",
        ),
        (["--audit-log", "guidsvc.db"], "audit_log: guidsvc.db is a file of the store"),
    ],
)
def test_setting_without_meaning_is_a_fault(arguments: list[str], fault: str) -> None:
    (reported,) = faults_of(*arguments)

    assert reported.startswith(fault)


FREE_TEXTS = {"host", "unix_socket", "jwt_issuer", "jwt_audience"}
"""Settings without invalid values: whether an address can be used is known once the service listens."""


@pytest.mark.parametrize("setting", sorted(Settings.model_fields.keys() - FREE_TEXTS))
def test_every_setting_rejects_invalid_values(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}ACCESS", "off")
    monkeypatch.setenv(f"{PREFIX}{setting.upper()}", "" if setting == "jwt_owner_claim" else "?:/no such/ value/")
    (fault,) = faults_of()

    assert setting in fault.partition(": ")[0].split(", ")


def test_empty_key_set_is_a_fault_even_with_access_off(folder: Path) -> None:
    (folder / "jwks").write_text('{"keys": []}')

    assert faults_of("--access", "off", "--jwt-jwks", "jwks") == [
        "jwt_jwks: contains no usable key: it is empty; name the keys of the issuer"
    ]


def test_valid_settings_pass(folder: Path) -> None:
    certificate = Certificate(folder)
    arguments = ["--host", "0.0.0.0", "--access", "keys", "--tls-cert", str(certificate.cert), "--tls-key", "key.pem"]
    arguments += [
        "--store-url",
        "mongodb://h/x",
        "--cache-url",
        "rediss://h/1",
        "--workers",
        "2",
        "--audit-log",
        "a.log",
    ]

    assert load(arguments).workers == 2
    assert list(unused(load(arguments))) == []


@pytest.mark.parametrize(
    ("arguments", "settings", "reason"),
    [
        (["--access", "off", "--jwt-audience", "a"], {"jwt_audience"}, "access is off"),
        (["--access", "off", "--rate-limit", "1/second"], {"rate_limit"}, "access is off"),
        (["--access", "off", "--public-metrics"], {"public_metrics"}, "access is off"),
        (["--events", "off", "--warn-before", "1d"], {"warn_before"}, "events is off"),
        (
            ["--access", "keys", "--jwt-issuer", "a", "--jwt-shared-owners"],
            {"jwt_issuer", "jwt_shared_owners"},
            "no token is accepted without --jwt-jwks",
        ),
        (["--unix-socket", "s", "--port", "9"], {"port"}, "the service listens on --unix-socket"),
        (["--trusted-proxies", "unix"], {"trusted_proxies"}, "no proxy can connect over a Unix socket"),
        (
            ["--server", "tornado", "--head-timeout", "9", "--max-incoming-bytes", "2097152"],
            {"max_incoming_bytes"},
            "only the server httptools has this limit",
        ),
        (["--temp-bytes", "1"], {"temp_bytes_per_batch"}, "it is larger than --temp-bytes"),
        (["--receipt-bytes", "1"], {"receipt_bytes_per_owner"}, "it is larger than --receipt-bytes"),
    ],
)
def test_settings_without_effect_are_named(arguments: list[str], settings: set[str], reason: str) -> None:
    unused_settings = list(unused(load(arguments)))

    assert {item.setting for item in unused_settings} == settings
    assert all(item.reason.startswith(reason) for item in unused_settings)


def test_defaults_all_have_an_effect() -> None:
    assert list(unused(load([]))) == []
