"""The commands over HTTP: a module for each group of commands."""
