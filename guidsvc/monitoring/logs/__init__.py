"""Logs: their form, the access log, limits on lines, and the streams that they are written to."""
