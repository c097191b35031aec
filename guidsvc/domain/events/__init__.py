"""Events of GUIDs. Pure functions and values: no store, no HTTP, no clock."""
