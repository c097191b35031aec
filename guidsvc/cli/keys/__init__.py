"""`python pdapt.py keys`: administration of API keys on the command line."""

from guidsvc.cli.keys.command import COLUMNS, parser, run

__all__ = ["COLUMNS", "parser", "run"]
