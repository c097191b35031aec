"""Application services: operations on records and API keys, with idempotency and quotas."""
