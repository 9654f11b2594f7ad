"""DuckDB files, opened for reading, with duckdb's own client.

A query may read other files (read_parquet('…'), 'x.csv') only with external_access: true: a view inside a database file
could otherwise pick any file of yours, or an address on the web.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from forge.errors import ForgeError, UsageError
from forge.phase import Requirement, Settings
from forge.plugins.sources._rows import Query, Row, SqlSettings, preview_queries, write_rows
from forge.plugins.sources._values import unique_names
from forge.protocols import Fetching, Preview

FETCH_ROWS = 1000


class DuckSettings(SqlSettings):
    """A DuckDB file and queries to it."""

    path: str = Field("", description="the database file, from the folder of sources.yaml on; empty = none, with external_access")
    external_access: bool = Field(False, description="queries may read other files and addresses")


class DuckSource:
    """Queries to a DuckDB file."""

    name: ClassVar[str] = "duckdb"
    requires: ClassVar[tuple[Requirement, ...]] = (Requirement(module="duckdb", extra="sources"),)
    settings: ClassVar[type[Settings]] = DuckSettings

    def fetch(self, settings: DuckSettings, folder: Path, ctx: Fetching) -> Mapping[str, Any]:
        """One file per query; facts: the rows of each."""
        counts = {}
        for query in settings.all_queries:
            with _asked(settings, query, ctx) as rows:
                counts[query.name] = write_rows(query, rows, folder, settings, ctx)
        return {"rows": counts}

    def preview(self, settings: DuckSettings, samples: int, ctx: Fetching) -> Preview:
        """Counts and first rows."""

        def count(query: Query) -> int | None:
            counting = query.model_copy(update={"query": f"SELECT COUNT(*) AS n FROM ({query.query}) counted"})
            with _asked(settings, counting, ctx) as rows:
                return int(next(rows)["n"])

        return preview_queries(settings.all_queries, lambda query: _asked(settings, query, ctx), count, samples)


@contextmanager
def _asked(settings: DuckSettings, query: Query, ctx: Fetching) -> Iterator[Iterator[Row]]:
    """The rows of a query, which is interrupted after its time."""
    import duckdb

    path = (ctx.base / Path(settings.path).expanduser()).resolve() if settings.path else None
    if path is not None and not path.is_file():
        raise UsageError(f"there is no file at {path}", why="relative paths start from the folder of sources.yaml", next="mend path")
    access = "true" if settings.external_access else "false"
    limits = {"enable_external_access": access, "autoinstall_known_extensions": "false"}
    try:
        connection = duckdb.connect(str(path) if path else ":memory:", read_only=path is not None, config=limits)
    except duckdb.Error as error:
        raise ForgeError(f"{path} cannot be opened", why=_reason(error), next="check that it is a DuckDB file and that no program writes to it") from None
    timer = threading.Timer(settings.timeout_seconds, connection.interrupt)
    timer.start()
    try:
        yield _rows(connection, query.query)
    except duckdb.InterruptException:
        raise ForgeError(f'the query "{query.name}" took longer than {settings.timeout_seconds:g} s', why="timeout_seconds is the limit", next="raise timeout_seconds") from None
    except duckdb.Error as error:
        raise ForgeError(f'the query "{query.name}" fails', why=_reason(error), next="try the query in duckdb itself") from None
    finally:
        timer.cancel()
        connection.close()


def _rows(connection: Any, query: str) -> Iterator[Row]:
    found = connection.execute(query)
    names = unique_names(column[0] for column in found.description)
    while part := found.fetchmany(FETCH_ROWS):
        for row in part:
            yield dict(zip(names, row, strict=True))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


source = DuckSource()
