"""What the service shows of itself: logs, and metrics for Prometheus."""
