"""Escaping of characters that a terminal would interpret or hide: controls, bidirectional formats, line separators."""


def escape(text: str) -> str:
    """Return a text with its non-printable characters escaped: controls, formats, line separators."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def escape_lines(text: str) -> str:
    """Return a text of several lines with all non-printable characters escaped, except the newlines."""
    return "\n".join(map(escape, text.split("\n")))
