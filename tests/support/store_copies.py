"""Copies of a whole store, to be put in its place later: as a restore of a backup does."""

import shutil
from collections.abc import Callable
from typing import Any

import pymongo

from guidsvc.store.sqlite.backup import back_up
from guidsvc.store.sqlite.store import path_of_url

Restore = Callable[[], None]
"""Puts a copy in the place of the store, which nothing may have open."""


def copy_of(url: str) -> Restore:
    """Copy a store, and return how to restore it."""
    return _sqlite_copy(url) if url.startswith("sqlite") else _mongo_copy(url)


def _sqlite_copy(url: str) -> Restore:
    path = path_of_url(url)
    copy = path.with_name("copy.db")
    back_up(path, copy, overwrite=True)

    def restore() -> None:
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        shutil.copy(copy, path)

    return restore


def _mongo_copy(url: str) -> Restore:
    with pymongo.MongoClient[dict[str, Any]](url) as mongo:
        database = mongo.get_default_database()
        copies = {name: list(database[name].find()) for name in database.list_collection_names()}

    def restore() -> None:
        with pymongo.MongoClient[dict[str, Any]](url) as mongo:
            database = mongo.get_default_database()
            for name in database.list_collection_names():
                database[name].delete_many({})
                if copies.get(name):
                    database[name].insert_many(copies[name])

    return restore
