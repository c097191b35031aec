"""The execution of one request, shared by handlers and the fast path."""
