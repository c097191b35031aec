"""JSON merge patches (RFC 7396) of metadata."""


def merge(target: object, patch: object) -> object:
    """Apply a JSON merge patch (RFC 7396) to a JSON value without modifying either."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), value) if isinstance(value, dict) else value
    return merged
