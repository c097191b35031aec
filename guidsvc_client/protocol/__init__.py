"""The HTTP interface of the service without I/O: calls, their retries, and flows of several calls.

Both clients run the same calls and flows, one in threads and one on an event loop.
"""
