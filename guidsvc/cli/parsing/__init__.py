"""Parsing of commands, on Click: the program, the bases of its commands, types of values, and usage errors."""
