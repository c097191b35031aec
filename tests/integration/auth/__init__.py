"""Tests of authentication against real servers."""
