"""Processes: the supervisor, its workers, signals, file descriptors."""
