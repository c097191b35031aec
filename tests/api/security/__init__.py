"""Tests of access control and of hostile input."""
