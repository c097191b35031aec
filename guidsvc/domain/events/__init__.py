"""Events: what happened to GUIDs. Pure functions and values: no store, no HTTP, no clock."""
