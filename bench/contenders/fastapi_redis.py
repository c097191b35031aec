"""The least that a user would write instead: FastAPI, and a read-through cache in Redis."""

import json
import os
import time
from typing import Any

import redis.asyncio
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from bench.contenders.asgi import serve
from bench.contenders.fixed import GUID


class Record(BaseModel):
    """A record."""

    guid: str
    expire: str
    user: str


def make() -> FastAPI:
    """Return the application."""
    app, cache = FastAPI(), redis.asyncio.Redis.from_url(os.environ["REDIS_URL"])
    store = {GUID: Record(guid=GUID, expire="4102444800", user="Cylance, Inc.")}

    @app.get("/guid/{guid}")  # type: ignore[untyped-decorator]  # lint does without FastAPI
    async def get(guid: str) -> Any:
        cached = await cache.get(guid)
        if cached is None:
            if guid not in store:
                raise HTTPException(404)
            cached = store[guid].model_dump_json()
            await cache.set(guid, cached, ex=60)
        record = json.loads(cached)
        if int(record["expire"]) < time.time():
            raise HTTPException(410)
        return record

    return app


if __name__ == "__main__":
    serve("bench.contenders.fastapi_redis:make")
