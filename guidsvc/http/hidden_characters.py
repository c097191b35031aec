"""Characters that hide text or change its direction, made visible where people read text of clients.

Pages and the audit log escape them as JSON does, so that JSON stays the same JSON. The joiners of emoji and of Persian
(U+200C and U+200D) stay: texts need them, and they move nothing.
"""

import re

_HIDDEN = re.compile(r"[\x80-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")


def show_hidden(text: str) -> str:
    r"""Return a text with its hidden characters escaped, each as six characters, such as \u202e."""
    return text if text.isascii() else _HIDDEN.sub(lambda match: rf"\u{ord(match[0]):04x}", text)
