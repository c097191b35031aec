"""The documentation that the service serves: the OpenAPI document, problem pages, static files."""
