"""A realistic alternative: FastAPI and Redis, with validation, entity tags and a check of the expiry.

It still does less than guidsvc: its cache can be stale, and it has no limits and no metrics.
"""

import os
import time
from typing import Annotated

import redis.asyncio
from fastapi import FastAPI, Header, HTTPException, Path, Response
from pydantic import BaseModel, Field

from bench.contenders.asgi import serve
from bench.contenders.fixed import GUID

PATTERN = "^[0-9A-F]{32}$"


class Record(BaseModel):
    """A record in a response."""

    guid: str = Field(pattern=PATTERN)
    expire: str = Field(pattern="^[0-9]+$")
    user: str = Field(min_length=1, max_length=256)


class Stored(Record):
    """A record as Redis holds it."""

    version: int


def make() -> FastAPI:
    """Return the application."""
    app, cache = FastAPI(), redis.asyncio.Redis.from_url(os.environ["REDIS_URL"])
    store = {GUID: Stored(guid=GUID, expire="4102444800", user="Cylance, Inc.", version=1_795_570_057_176)}

    async def find(guid: str) -> Stored:
        cached = await cache.get(f"validated:{guid}")
        if cached is not None:
            return Stored.model_validate_json(cached)
        if guid not in store:
            raise HTTPException(404, "There is no such GUID.")
        await cache.set(f"validated:{guid}", store[guid].model_dump_json(), ex=60)
        return store[guid]

    @app.get("/guid/{guid}", response_model=Record)  # type: ignore[untyped-decorator]  # lint does without FastAPI
    async def get(
        guid: Annotated[str, Path(pattern=PATTERN)],
        response: Response,
        if_none_match: Annotated[str | None, Header()] = None,
    ) -> Record | Response:
        record = await find(guid)
        if int(record.expire) <= time.time():
            raise HTTPException(410, "The GUID has expired.")
        headers = {"ETag": f'"{record.version}"', "Cache-Control": "private, no-cache"}
        if if_none_match == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        response.headers.update(headers)
        return record

    return app


if __name__ == "__main__":
    serve("bench.contenders.fastapi_validated:make")
