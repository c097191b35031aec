"""The request handlers, one module a resource."""
