"""Suggestions for unknown flags and variables: the nearest name, or the setting that other programs name so."""

from collections.abc import Collection

from guidsvc import similarity
from guidsvc.config.settings import PREFIX, flag

_SYNONYMS = {
    "cache_url": "cache redis redis_url redis_host redis_uri cache_uri",
    "store_url": "store database database_url db db_url sqlite mongo mongo_url mongo_uri mongodb mongodb_url",
    "lifetime": "ttl default_ttl expiry expires expire expires_in default_lifetime",
    "host": "bind address listen",
    "workers": "processes",
}
"""Words that other programs use for a setting."""
_SHORT_FLAGS = {
    "-p": "--port",
    "-P": "--port",
    "-b": "--host",
    "-H": "--host",
    "-w": "--workers",
    "-v": "--version",
    "-V": "--version",
}
"""Short flags of other programs; this one has only long ones."""
_SWITCHED_OFF = {
    "--no-events": "--events off",
    "--no-access": "--access off",
    "--no-audit-log": "--audit-log off",
    "--no-cache": "--cache-size 0",
}
"""Values that switch off settings that are not switches."""
_SETTINGS = {word: setting for setting, words in _SYNONYMS.items() for word in words.split()}


def suggestion(word: str, known: Collection[str]) -> str:
    """Return a question that suggests a known flag or variable, or an empty string if none is near."""
    near = _SWITCHED_OFF.get(word) or similarity.nearest(word, known, synonym=_synonym(word), min_similarity=0.8)
    return "" if near is None else f"; did you mean {near}?"


def _synonym(word: str) -> str:
    """Return the flag or the variable of the setting that a flag or a variable means, or an empty string."""
    if word in _SHORT_FLAGS:
        return _SHORT_FLAGS[word]
    if word.startswith("--"):
        setting = _SETTINGS.get(word[2:].replace("-", "_").lower())
        return "" if setting is None else flag(setting)
    setting = _SETTINGS.get(word.removeprefix(PREFIX).lower())
    return "" if setting is None else PREFIX + setting.upper()
