"""HTTP semantics: constants, errors, dates, NDJSON. No I/O."""
