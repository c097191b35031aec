"""The doctor: checks of an installation. Each returns findings with remedies, and changes nothing.

Each check has a stable name, a time limit, and a bounded text. It writes at most a probe, which it removes; it never
creates a store, nor migrates one.
"""
