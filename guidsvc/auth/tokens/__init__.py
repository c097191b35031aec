"""JWT bearer tokens: their verification, and the keys (JWKS) that sign them."""
