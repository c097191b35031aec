"""The base classes of request handlers: authentication, error mapping, streaming."""
