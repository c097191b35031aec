"""The use cases: what callers may do with records and API keys, within their quotas."""
