"""The sync client. Threads may share it."""
