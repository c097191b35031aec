"""Instrumentation: counters, histograms, and the trace of a request. Nothing here exports them."""
