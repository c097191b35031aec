"""Events in the service: the feed of what happened to GUIDs, and the scheduler of what time does to records."""
