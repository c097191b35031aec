"""The declarations of the HTTP contract: operations, headers, response schemas, problem types."""
