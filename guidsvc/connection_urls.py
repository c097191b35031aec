"""Connection URLs that may contain a password: redact them, and report errors about them without secrets.

A driver's error may quote any part of a URL. So errors are reported for the redacted URL: if it fails too, its error is
shown, else a generic message. A URL in which the end of the password is unclear is never passed to a driver.
"""

import re
from collections.abc import Callable, Iterable
from typing import TypeVar
from urllib.parse import parse_qsl, unquote

from guidsvc.bounded_file import read_file
from guidsvc.errors import StartError

HIDDEN = "***"

_HARMLESS = re.compile(
    r"(?i)db|username|w|journal|replicaset|authsource|authmechanism|tls|ssl|appname"
    r"|tls(ca|crl|certificatekey)file|ssl_(ca_certs|ca_path|certfile|keyfile)"
    r"|retry(reads|writes)|readpreference|directconnection|protocol|\w*timeout(ms)?"
)
"""Parameters whose values may be shown. Others may be secret: a misspelt name may be meant for a password."""
_FILE = re.compile(r"(?i)tls(ca|crl|certificatekey)file|ssl_(ca_certs|certfile|keyfile)")
"""Parameters that name a file."""
_PARTS = re.compile(r"(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?P<rest>.*)", re.DOTALL)
_SCHEME = re.compile(r"(?i)[a-z][a-z0-9+.-]*")
_KNOWN_SCHEMES = {"memory", "mongodb", "mongodb+srv", "redis", "rediss", "sqlite", "unix"}
"""Schemes that may be shown in front of a colon without slashes, where any other word may be a password."""
_PATH_SCHEMES = {"sqlite", "unix"}
"""Schemes whose path is that of a file, which may contain any character."""
_ADDRESS = re.compile(r"^\[[^\]]*\]")
"""An IPv6 address in front of a port."""
ENCODING_RULE = "percent-encode all characters except A-Z a-z 0-9 . _ -"
"""The one rule for user and password: more than each scheme needs, and right for all of them."""
_STRAY_AT = f"in user and password, {ENCODING_RULE}, such as %40 for @"
_BAD_PORT = (
    "the port is not a number; write user and password before the host, as in redis://:PASSWORD@HOST:PORT, and "
    f"{ENCODING_RULE} in them"
)
_Client = TypeVar("_Client")


def redact(url: str) -> str:
    """Return a URL with its secrets hidden."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return _redact_text(url)
    if not _SCHEME.fullmatch(scheme):
        return HIDDEN
    if is_ambiguous(url):
        return f"{scheme}://{HIDDEN}"
    parts = _PARTS.fullmatch(rest)
    assert parts is not None  # noqa: S101  # nosec B101  # the pattern matches any text
    query = "" if parts["query"] is None else "?" + "".join(map(_redact_parameter, re.split("([&;])", parts["query"])))
    return f"{scheme}://{_redact_authority(parts['authority'])}{_redact_path(scheme, parts['path'])}{query}"


def redact_words(text: str, words: Iterable[str]) -> str:
    """Return a text that quotes words of a command line, with the URLs in these words redacted."""
    for word in filter(None, words):
        name, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
        text = text.replace(word, f"{name}{equals}{redact(value)}")
    return text


def _redact_text(text: str) -> str:
    """Return a text without `://`. If it may be a URL, or a part of one, only a known scheme is shown."""
    if not re.search("[:@=]", text):
        return text
    scheme, colon, _ = text.partition(":")
    return f"{scheme}:{HIDDEN}" if colon and scheme.lower() in _KNOWN_SCHEMES else HIDDEN


def _redact_authority(authority: str) -> str:
    """Return user and host. A user with an @ may be a part of the password, if that was not percent-encoded."""
    user, at, host = authority.rpartition("@")
    name, colon, _ = user.partition(":")
    credentials = f"{name}:{HIDDEN}" if colon and "@" not in name else HIDDEN if at else ""
    return f"{credentials}{at}{host}"


def _redact_path(scheme: str, path: str) -> str:
    """Return the path, but hide one that parameters were written into, after `&` instead of `?`."""
    is_file = scheme.lower() in _PATH_SCHEMES
    return path if is_file or not re.search("[=&;]", path) else f"/{HIDDEN}"


def scheme_of(url: str) -> str:
    """Return the scheme of a URL in lower case, else an empty string, since any other text may be secret."""
    scheme, mark, _ = url.partition("://")
    return scheme if mark and scheme == scheme.lower() and _SCHEME.fullmatch(scheme) else ""


def unsupported(url: str) -> str:
    """Return the printable part of a URL with an unsupported scheme: the scheme, else the quoted, redacted text."""
    scheme, mark, _ = url.partition("://")
    if mark and scheme != scheme.lower() and scheme.lower() in _KNOWN_SCHEMES:
        return f"{scheme}, whose name must be in lower case"
    return scheme_of(url) or repr(HIDDEN if mark else redact(url))


def is_ambiguous(url: str) -> bool:
    """Return whether any part may be a password: the URL has a misplaced @, or an invalid port."""
    return _has_stray_at(url) or _has_bad_port(url)


def _has_bad_port(url: str) -> bool:
    """Return whether the port may be a password: the authority has no @, and the port is not a number."""
    authority = re.split("[/?#]", url.partition("://")[2], maxsplit=1)[0]
    if "@" in authority:
        return False
    ports = [_ADDRESS.sub("", host).partition(":")[2] for host in authority.split(",")]
    return not all(re.fullmatch("[0-9]{0,5}", port) for port in ports)


def _has_stray_at(url: str) -> bool:
    scheme, _, rest = url.partition("://")
    parts = _PARTS.fullmatch(rest)
    if parts is None or (scheme.lower() in _PATH_SCHEMES and not parts["authority"]):
        return False
    loose = [each for each in re.split("[&;]", parts["query"] or "") if "@" in each.partition("=")[0]]
    return "@" in parts["path"] or "@" in parts["rest"] or bool(loose)


def connect_with_redacted_errors(
    setting: str, url: str, make: Callable[[str], _Client], *faults: type[Exception]
) -> _Client:
    """Return `make(url)`. Raise StartError, which names the setting, if it raises one of `faults`."""
    if is_ambiguous(url):
        raise StartError(f"{setting}: {_BAD_PORT if _has_bad_port(url) else _STRAY_AT}") from None
    _refuse_unreadable_files(setting, url)
    try:
        return make(url)
    except faults as error:
        # No cause: it may quote a secret, which a traceback of this error would show.
        raise StartError(f"{setting}: {_safe_message(url, make, faults, error)}") from None


def _refuse_unreadable_files(setting: str, url: str) -> None:
    """Raise StartError if a parameter names a file that the driver could not read, or would block on."""
    for name, value in parse_qsl(url.partition("?")[2].partition("#")[0]):
        if _FILE.fullmatch(name):
            try:
                read_file(value)
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or error
                raise StartError(f"{setting}: {name}: {why}: {value!r}") from error


def _safe_message(
    url: str, make: Callable[[str], object], faults: tuple[type[Exception], ...], error: Exception
) -> str:
    public = redact(url)
    if public == url:
        return str(error)
    try:
        make(public)
    except faults as other:
        return str(other)
    return f"the user, the password or a parameter is malformed; {ENCODING_RULE}"


def _redact_parameter(part: str) -> str:
    name, equals, _ = part.partition("=")
    if part in {"", "&", ";"} or (equals and _HARMLESS.fullmatch(unquote(name))):
        return part
    return f"{name}={HIDDEN}" if equals and re.fullmatch(r"\w+", name) else HIDDEN
