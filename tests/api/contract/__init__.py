"""Tests of common properties of all resources."""
