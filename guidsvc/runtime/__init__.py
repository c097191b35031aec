"""Building blocks for asyncio: admission control, locks, batching, cancellation, background tasks."""
