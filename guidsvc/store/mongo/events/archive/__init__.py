"""The archive of the event log: entries before the floor that their owners keep, while the log is over its size."""
