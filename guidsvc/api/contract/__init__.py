"""Declarations of the HTTP contract: operations, headers, response schemas, problem types."""
