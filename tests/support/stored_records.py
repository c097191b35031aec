"""Records that are written to a running service, and damage to its file."""

import asyncio
import json
import random
import sqlite3
from contextlib import closing
from pathlib import Path

from guidsvc.store.sqlite.store import path_of_url
from tests.support.factories import USER
from tests.support.http_client import Client

PAGE = 4096
GUIDS = [f"{number:032X}" for number in range(400)]


def guid(number: int) -> str:
    """Return the GUID at a position in the order of keys."""
    return f"{number:032X}"


async def create(client: Client, numbers: range, **members: object) -> list[object]:
    """Create GUIDs and return their records."""
    replies = await asyncio.gather(
        *(client.put(f"/guid/{guid(number)}", {"user": USER} | members) for number in numbers)
    )
    assert {reply.status for reply in replies} == {201}
    return [reply.json for reply in replies]


def drop_records(sqlite_url: str) -> None:
    """Drop the table of records while the service runs, as only a fault could."""
    with closing(sqlite3.connect(path_of_url(sqlite_url))) as connection:
        connection.execute("DROP TABLE records")


def metadata(number: int) -> dict[str, str]:
    """Return metadata with the number of its record, and a kilobyte of padding."""
    return {"mark": f"mark{number:04}", "room": "x" * 1000}


async def fill_store(client: Client) -> None:
    """Store a record under each of GUIDS."""
    lines = [
        json.dumps({"guid": guid, "user": f"user{number:04}", "metadata": metadata(number)}).encode() + b"\n"
        for number, guid in enumerate(GUIDS)
    ]
    reply = await client.post("/guid:batch", body=b"".join(lines), headers={"Content-Type": "application/x-ndjson"})
    assert {result["status"] for result in reply.lines} == {201}


def damage(folder: Path, mark: bytes, without: bytes = b"") -> None:
    """Overwrite with garbage the first page of the store's file that contains `mark` but not `without`."""
    file = folder / "guidsvc.db"
    data = file.read_bytes()
    pages = (data[start : start + PAGE] for start in range(0, len(data), PAGE))
    page_number = next(
        page_number for page_number, page in enumerate(pages) if mark in page and not (without and without in page)
    )
    garbage = random.Random(1).randbytes(PAGE)
    file.write_bytes(data[: page_number * PAGE] + garbage + data[(page_number + 1) * PAGE :])
