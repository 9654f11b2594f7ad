"""MongoDB collections with pymongo: a find in the order of _id, or an aggregation pipeline that only reads.

In our tests it talks over the real wire protocol, with a login, to SecantusDB, which reimplements MongoDB on its storage
engine; MongoDB itself cannot be installed from Debian, PyPI or npm, so it is not exercised in our tests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from forge.errors import ForgeError, UsageError
from forge.phase import Requirement, Settings
from forge.plugins.sources._rows import Row, RowsSettings, Shape, preview_queries, write_rows
from forge.protocols import Fetching, Preview

BATCH_ROWS = 1000
CONNECT_MS = 20_000
WRITING_STAGES = {"$out", "$merge"}


class MongoQuery(Shape):
    """What to read of a collection."""

    collection: str = Field(min_length=1, description="the collection")
    filter: dict[str, Any] = Field({}, description="a find filter, in MongoDB's extended JSON")
    projection: dict[str, Any] = Field({}, description="a find projection")
    sort: dict[str, int] = Field({}, description="field -> 1 or -1; without it documents come in the order of _id")
    pipeline: tuple[dict[str, Any], ...] = Field((), description="an aggregation instead of filter, projection and sort")

    @field_validator("pipeline")
    @classmethod
    def _reads(cls, pipeline: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        writing = sorted({key for stage in pipeline for key in stage} & WRITING_STAGES)
        if writing:
            raise ValueError(f"{', '.join(writing)} writes; only pipelines that read are run")
        return pipeline

    @model_validator(mode="after")
    def _one_way(self) -> MongoQuery:
        if self.pipeline and (self.filter or self.projection or self.sort):
            raise ValueError("write either pipeline, or filter, projection and sort")
        return self

    @property
    def ordered(self) -> bool:
        return not self.pipeline or any("$sort" in stage for stage in self.pipeline)


class MongoSettings(RowsSettings):
    """A database and what to read of it."""

    url_env: str = Field("", description="environment variable with the mongodb:// URL, password included")
    url: str = Field("", description="the URL without a password")
    user: str = Field("", description="the user")
    password_env: str = Field("", description="environment variable with the password")
    database: str = Field(min_length=1, description="the database")
    auth_source: str = Field("admin", description="the database that knows the user")
    queries: tuple[MongoQuery, ...] = Field(min_length=1, description="what to read; each becomes a file")

    @model_validator(mode="after")
    def _one_place(self) -> MongoSettings:
        if bool(self.url_env) == bool(self.url):
            raise ValueError("write either url_env: or url:")
        if len({query.name for query in self.queries}) < len(self.queries):
            raise ValueError("two queries have the same name; it is the name of their file")
        return self


class MongoSource:
    """Documents of a MongoDB database."""

    name: ClassVar[str] = "mongodb"
    requires: ClassVar[tuple[Requirement, ...]] = (Requirement(module="pymongo", extra="sources"),)
    settings: ClassVar[type[Settings]] = MongoSettings

    def fetch(self, settings: MongoSettings, folder: Path, ctx: Fetching) -> Mapping[str, Any]:
        """One file per query; facts: the documents of each."""
        counts = {}
        with _database(settings, ctx) as database:
            for query in settings.queries:
                with _asked(database, query, settings) as rows:
                    counts[query.name] = write_rows(query, rows, folder, settings, ctx)
        return {"rows": counts}

    def preview(self, settings: MongoSettings, samples: int, ctx: Fetching) -> Preview:
        """Counts by the server (not of pipelines), and the first documents."""
        with _database(settings, ctx) as database:

            def count(query: MongoQuery) -> int | None:
                limit = int(settings.timeout_seconds * 1000)
                return None if query.pipeline else int(database[query.collection].count_documents(_extended(query.filter), maxTimeMS=limit))

            return preview_queries(settings.queries, lambda query: _asked(database, query, settings), count, samples)


@contextmanager
def _database(settings: MongoSettings, ctx: Fetching) -> Iterator[Any]:
    import pymongo
    from pymongo.errors import PyMongoError

    url = ctx.secret(settings.url_env) if settings.url_env else settings.url
    login: dict[str, Any] = {"username": settings.user, "authSource": settings.auth_source} if settings.user else {}
    if settings.password_env:
        login["password"] = ctx.secret(settings.password_env)
    try:
        client: Any = pymongo.MongoClient(url, serverSelectionTimeoutMS=CONNECT_MS, connectTimeoutMS=CONNECT_MS, tz_aware=True, appname="slm-forge", **login)
    except (PyMongoError, ValueError) as error:
        raise UsageError(f"{settings.url_env or 'url'} is no MongoDB URL", why=str(error), next="it looks like mongodb://host:27017") from None
    try:
        yield client[settings.database]
    except PyMongoError as error:
        raise ForgeError("no connection to the MongoDB database", why=_reason(error), next="check the URL, user and password_env") from None
    finally:
        client.close()


@contextmanager
def _asked(database: Any, query: MongoQuery, settings: MongoSettings) -> Iterator[Iterator[Row]]:
    from pymongo.errors import ConnectionFailure, PyMongoError

    limit = int(settings.timeout_seconds * 1000)
    try:
        collection = database[query.collection]
        if query.pipeline:
            cursor = collection.aggregate(_extended(list(query.pipeline)), maxTimeMS=limit, batchSize=BATCH_ROWS, allowDiskUse=True)
        else:
            order = list({**query.sort, "_id": query.sort.get("_id", 1)}.items())   # _id makes any order a full one
            cursor = collection.find(_extended(query.filter), query.projection or None, sort=order, batch_size=BATCH_ROWS, max_time_ms=limit)
        with cursor:
            yield iter(cursor)
    except ConnectionFailure:
        raise
    except PyMongoError as error:
        raise ForgeError(f'the query "{query.name}" fails', why=_reason(error), next="try it in mongosh; timeout_seconds limits its time") from None


def _extended(value: Any) -> Any:
    """{"$oid": …} and {"$date": …} as what they stand for."""
    from bson import json_util

    return json_util.loads(json.dumps(value, default=str))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


source = MongoSource()
