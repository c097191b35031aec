"""Authentication and its limits: API keys, JWTs, rate limits, lockouts, the audit log."""
