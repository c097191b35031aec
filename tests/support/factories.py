"""Records for tests."""

from guidsvc.domain.record import Record

GUID = "9094E4C980C74043A4B586B420E69DDF"
USER = "Cylance, Inc."


def record(now: int, **fields: object) -> Record:
    """Return a record that was created at `now`, in Unix ms, and lives for an hour, with these fields replaced."""
    seconds = now // 1000
    defaults: dict[str, object] = {
        "guid": GUID,
        "user": USER,
        "expire": seconds + 3600,
        "version": now,
        "created": now,
        "updated": now,
        "purge_at": seconds + 7200,
    }
    return Record.model_validate(defaults | fields)
