"""Numbers with a noun, in the singular or the plural."""


def counted(count: int, noun: str) -> str:
    """Return a number with its regular noun, such as `1 record` or `2 records`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
