"""Shared code of the tests: servers, clients, factories, assertions."""
