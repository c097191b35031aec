"""The version of the client, which is that of the service with which it was tested."""

__version__ = "0.1.0"
