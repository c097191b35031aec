"""The doctor: checks of a set-up, each of which says what it found and what to do. It changes nothing.

Each check has a stable name, a time limit, and a bounded text. It writes at most a probe, which it removes; it never
creates a store, nor migrates one.
"""
