"""Stands for the package that is not installed."""

raise ModuleNotFoundError("hidden, as in an installation without the tools of the tests", name="rich")
