"""Random requests generated from the OpenAPI document."""
