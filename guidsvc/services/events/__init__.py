"""Events in the service: the scheduler of what time does to records."""
