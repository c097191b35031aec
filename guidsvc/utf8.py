"""The size of texts on the wire and in stores, which encode them as UTF-8."""


def utf8_bytes(text: str) -> int:
    """Return the size of a text in bytes. A character takes up to four."""
    return len(text) if text.isascii() else len(text.encode())
