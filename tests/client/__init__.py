"""The Python client, guidsvc_client: one suite over the sync and the async client, against the real service."""
