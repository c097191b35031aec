"""Domain model: records, API keys, callers and their lifecycle rules. Pure code, no I/O."""
