"""Process management: the supervisor, its workers, signals, and file descriptors."""
