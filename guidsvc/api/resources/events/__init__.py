"""The resource `/events`: the feed of events, as pages, as lines, and as server-sent events."""
