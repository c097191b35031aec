"""`update` behind a proxy that hides the versions of records: it never writes without one."""

from uuid import uuid4

import pytest

from guidsvc_client import Client, Record
from tests.support.backing_servers import Service
from tests.support.client_in_thread import client_of
from tests.support.etag_proxy import REMOVED, WEAK, etag_proxy

pytestmark = pytest.mark.parametrize("tags", [WEAK, REMOVED])


async def test_update_keeps_changes_of_others(kind: str, running: Service, tags: str) -> None:
    """Another client changes the record between the read and the write, twice."""
    with etag_proxy(running.port, tags) as url, Client(running.url) as other:
        guid = other.put(uuid4(), user="a", metadata={"n": 0}).guid
        seen: list[int] = []

        def increment(record: Record) -> Record:
            seen.append(record.metadata["n"])
            if len(seen) < 3:
                other.put(guid, metadata={"n": 100 * len(seen)})
            return record.replace(metadata={"n": record.metadata["n"] + 1})

        async with client_of(kind, url) as client:
            updated = await client.update(guid, increment)
        assert seen == [0, 100, 200]
        assert (updated.metadata, updated.version) == ({"n": 201}, other.get(guid).version)
        assert other.get(guid) == updated


async def test_unchanged_record_of_update_has_its_version(kind: str, running: Service, tags: str) -> None:
    with etag_proxy(running.port, tags) as url, Client(running.url) as other:
        made = other.put(uuid4(), user="a")
        async with client_of(kind, url) as client:
            assert (await client.get(made.guid)).version is None
            assert (await client.get(made.guid, full=True)).version == made.version
            assert await client.update(made.guid, lambda record: record) == made
