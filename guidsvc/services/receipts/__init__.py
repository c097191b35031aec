"""Receipts of requests with an Idempotency-Key: their lease, their quota, and the response stored in them."""
