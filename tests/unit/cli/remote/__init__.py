"""The parts of the commands over HTTP that need no service."""
