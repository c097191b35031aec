"""Characters that hide text or change its direction, made visible where people read text of clients.

Pages and the audit log escape them as JSON does, so that JSON stays the same JSON. The joiners of emoji and of Persian
(U+200C and U+200D) stay: texts need them, and they move nothing.
"""

import re

_HIDDEN = re.compile(r"([\x80-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb])")


class _Escapes(dict[str, str]):
    """The escapes of hidden characters, each made when it is first used: there are fewer than 100."""

    def __missing__(self, character: str) -> str:
        escape = self[character] = rf"\u{ord(character):04x}"
        return escape


_ESCAPES = _Escapes()


def show_hidden(text: str) -> str:
    r"""Return a text with its hidden characters escaped, each as six characters, such as \u202e."""
    if text.isascii():
        return text
    parts = _HIDDEN.split(text)  # without a Python call for each character: a text may have a million
    parts[1::2] = map(_ESCAPES.__getitem__, parts[1::2])
    return "".join(parts)


def hidden_count(text: str) -> int:
    """Return the number of hidden characters of a text."""
    return 0 if text.isascii() else len(_HIDDEN.findall(text))
