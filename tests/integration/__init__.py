"""Tests of a module against the real server that it talks to."""
