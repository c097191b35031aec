"""Instruments: counters and histograms, and the trace of one request. They export nothing."""
