"""The async client, on asyncio."""
