"""`guidsvc keys`: administration of API keys on the command line."""
