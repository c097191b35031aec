"""The resource `/guid:batch`: many operations in one request."""
