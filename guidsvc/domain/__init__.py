"""The domain: records, API keys, callers and the pure rules of their life cycles. No I/O."""
