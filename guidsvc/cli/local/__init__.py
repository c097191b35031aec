"""Commands for this host: for the store, the settings, and the local service."""
