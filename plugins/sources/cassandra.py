"""Cassandra through cassandra-driver. Not exercised in our tests: its server is not on Debian, PyPI or npm.

CQL orders rows only within a partition, so rows are sorted here unless a query has an ORDER BY.
"""

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

FETCH_ROWS = 1000
CONNECT_SECONDS = 20


class CassandraSettings(SqlSettings):
    """A Cassandra cluster and CQL queries to it."""

    hosts: tuple[str, ...] = Field(min_length=1, description="contact points")
    port: int = Field(9042, ge=1, le=65535, description="their port")
    keyspace: str = Field("", description="the keyspace")
    user: str = Field("", description="the user; best one that may only read")
    password_env: str = Field("", description="environment variable with the password")
    tls: bool = Field(False, description="encrypt the connection and check the server's certificate")


class CassandraSource:
    """Queries to Cassandra."""

    name: ClassVar[str] = "cassandra"
    requires: ClassVar[tuple[Requirement, ...]] = (Requirement(module="cassandra", extra="cassandra"),)
    settings: ClassVar[type[Settings]] = CassandraSettings

    def fetch(self, settings: CassandraSettings, folder: Path, ctx: Fetching) -> Mapping[str, Any]:
        """One file per query; facts: the rows of each."""
        counts = {}
        for query in settings.all_queries:
            with _asked(settings, query, ctx) as rows:
                counts[query.name] = write_rows(query, rows, folder, settings, ctx)
        return {"rows": counts}

    def preview(self, settings: CassandraSettings, samples: int, ctx: Fetching) -> Preview:
        """First rows only: a count would read every partition."""
        return preview_queries(settings.all_queries, lambda query: _asked(settings, query, ctx), lambda query: None, samples, note="not counted: it would read every partition")


@contextmanager
def _asked(settings: CassandraSettings, query: Query, ctx: Fetching) -> Iterator[Iterator[Row]]:
    import ssl

    from cassandra import DriverException, RequestExecutionException
    from cassandra.auth import PlainTextAuthProvider
    from cassandra.cluster import Cluster, NoHostAvailable
    from cassandra.query import SimpleStatement, tuple_factory

    login = PlainTextAuthProvider(settings.user, ctx.secret(settings.password_env)) if settings.user and settings.password_env else None
    secure = ssl.create_default_context() if settings.tls else None
    cluster = Cluster(list(settings.hosts), port=settings.port, auth_provider=login, ssl_context=secure, connect_timeout=CONNECT_SECONDS)
    try:
        session = cluster.connect(settings.keyspace or None)
        session.row_factory = tuple_factory
        found = session.execute(SimpleStatement(query.query, fetch_size=FETCH_ROWS), timeout=settings.timeout_seconds)
        names = unique_names(found.column_names)
        yield (dict(zip(names, row, strict=True)) for row in found)
    except (NoHostAvailable, DriverException, RequestExecutionException) as error:
        raise ForgeError(f'the query "{query.name}" fails', why=" ".join(str(error).split())[:500], next="check hosts, user, keyspace and the query") from None
    finally:
        cluster.shutdown()


source = CassandraSource()
