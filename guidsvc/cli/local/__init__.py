"""Commands that work on this host: on the store, the settings, and the service beside them."""
