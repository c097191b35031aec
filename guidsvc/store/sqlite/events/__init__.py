"""The event log of the SQLite store: a table beside the records, written in the transactions that change them."""
