"""ClickHouse through clickhouse-connect (HTTP). Not exercised in our tests: its server is not on Debian, PyPI or npm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from forge.errors import ForgeError
from forge.phase import Requirement, Settings
from forge.plugins.sources._rows import Query, Row, SqlSettings, preview_queries, write_rows
from forge.plugins.sources._values import unique_names
from forge.protocols import Fetching, Preview


class ClickHouseSettings(SqlSettings):
    """A ClickHouse server and queries to it."""

    host: str = Field(min_length=1, description="the server")
    port: int | None = Field(None, ge=1, le=65535, description="its HTTP port; 8123, or 8443 when secure")
    secure: bool = Field(True, description="speak HTTPS")
    database: str = Field("default", description="the database")
    user: str = Field("default", description="the user; best one that may only read")
    password_env: str = Field("", description="environment variable with the password")


class ClickHouseSource:
    """Queries to ClickHouse."""

    name: ClassVar[str] = "clickhouse"
    requires: ClassVar[tuple[Requirement, ...]] = (Requirement(module="clickhouse_connect", extra="clickhouse"),)
    settings: ClassVar[type[Settings]] = ClickHouseSettings

    def fetch(self, settings: ClickHouseSettings, folder: Path, ctx: Fetching) -> Mapping[str, Any]:
        """One file per query; facts: the rows of each."""
        counts = {}
        for query in settings.all_queries:
            with _asked(settings, query, ctx) as rows:
                counts[query.name] = write_rows(query, rows, folder, settings, ctx)
        return {"rows": counts}

    def preview(self, settings: ClickHouseSettings, samples: int, ctx: Fetching) -> Preview:
        """Counts and first rows."""

        def count(query: Query) -> int | None:
            counting = query.model_copy(update={"query": f"SELECT count() AS n FROM ({query.query})"})
            with _asked(settings, counting, ctx) as rows:
                return int(next(rows)["n"])

        return preview_queries(settings.all_queries, lambda query: _asked(settings, query, ctx), count, samples)


@contextmanager
def _asked(settings: ClickHouseSettings, query: Query, ctx: Fetching) -> Iterator[Iterator[Row]]:
    import clickhouse_connect
    from clickhouse_connect.driver.exceptions import Error

    port = settings.port or (8443 if settings.secure else 8123)
    password = ctx.secret(settings.password_env) if settings.password_env else ""
    # readonly=2: reading only, and settings like the time limit may still be sent along.
    limits = {"readonly": 2, "max_execution_time": max(1, int(settings.timeout_seconds))}
    try:
        client = clickhouse_connect.get_client(
            host=settings.host, port=port, secure=settings.secure, database=settings.database, username=settings.user, password=password
        )
        try:
            with client.query_row_block_stream(query.query, settings=limits) as blocks:
                names = unique_names(blocks.source.column_names)
                yield (dict(zip(names, row, strict=True)) for block in blocks for row in block)
        finally:
            client.close()
    except Error as error:
        raise ForgeError(f'the query "{query.name}" fails', why=" ".join(str(error).split())[:500], next="check the server, the user and the query") from None


source = ClickHouseSource()
