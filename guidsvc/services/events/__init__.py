"""Events in the service: the feed of events, and the scheduler of record steps."""
