"""Builds the parser of the flags when the fork server imports it, so that all forked programs inherit one."""

from guidsvc.config.loading import flag_parser

flag_parser()
