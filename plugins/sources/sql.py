"""SQL databases through SQLAlchemy: PostgreSQL, MySQL and MariaDB, SQLite; SQL Server and Oracle with a driver of yours.

PostgreSQL (psycopg), MySQL/MariaDB (pymysql) and SQLite run in our tests against real servers. kind: mssql (pyodbc) and
kind: oracle (oracledb) use the same code but are not exercised in our tests.

All queries of a source run in one read-only transaction, where the server has those, on one consistent snapshot, with a
server-side cursor and a statement timeout. Times with a zone come out in UTC.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pydantic import Field, model_validator

from forge.errors import ForgeError, MissingAccess, UsageError
from forge.phase import Requirement, Settings
from forge.plugins.sources._rows import Query, Row, SqlSettings, preview_queries, write_rows
from forge.plugins.sources._values import unique_names
from forge.protocols import Fetching, Preview

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Connection, Engine

FETCH_ROWS = 1000
CONNECT_SECONDS = 20


class ServerSettings(SqlSettings):
    """Where a server is: a whole URL in an environment variable, or its parts with the password in one."""

    url_env: str = Field("", description="environment variable with the URL, password included (DATABASE_URL)")
    url: str = Field("", description="the URL without a password")
    host: str = Field("", description="the server; with port, database and user instead of a URL")
    port: int | None = Field(None, ge=1, le=65535, description="the server's port")
    database: str = Field("", description="the database")
    user: str = Field("", description="the user; best one that may only read")
    password_env: str = Field("", description="environment variable with the password")
    options: dict[str, str] = Field({}, description="parameters of the driver's URL (sslmode: require)")
    driver: str = Field("", pattern=r"^[a-z0-9_]*$", description="another SQLAlchemy driver than ours (pymssql)")

    @model_validator(mode="after")
    def _one_place(self) -> ServerSettings:
        if sum(map(bool, (self.url_env, self.url, self.host))) != 1:
            raise ValueError("write one of url_env:, url: or host:")
        return self


class SqliteSettings(SqlSettings):
    """A SQLite file, opened for reading."""

    path: str = Field(min_length=1, description="the file, from the folder of sources.yaml on")


class SqlSource:
    """Queries to one kind of SQL database."""

    def __init__(self, name: str, driver: str, settings: type[Settings], requires: tuple[Requirement, ...]) -> None:
        self.name, self.driver, self.settings, self.requires = name, driver, settings, requires

    def fetch(self, settings: Any, folder: Path, ctx: Fetching) -> Mapping[str, Any]:
        """One file per query; facts: the rows of each."""
        counts = {}
        with self._reading(settings, ctx) as connection:
            for query in settings.all_queries:
                with _asked(query):
                    counts[query.name] = write_rows(query, _rows(connection, query.query), folder, settings, ctx)
        return {"rows": counts}

    def preview(self, settings: Any, samples: int, ctx: Fetching) -> Preview:
        """The server counts; of each query only the first rows are read."""

        @contextmanager
        def rows(query: Query) -> Iterator[Iterator[Row]]:
            with self._reading(settings, ctx) as connection, _asked(query):
                if self.name == "mysql":   # closing an unread cursor reads the whole rest first: 13 s for 800 MB
                    connection.exec_driver_sql(f"SET SESSION sql_select_limit = {samples}")
                yield _rows(connection, query.query)

        def count(query: Query) -> int | None:
            from sqlalchemy.exc import DBAPIError

            with self._reading(settings, ctx) as connection:
                try:
                    found = connection.exec_driver_sql(f"SELECT COUNT(*) FROM ({query.query}) counted", execution_options={"no_parameters": True})
                    return int(found.scalar_one())
                except DBAPIError:   # a column named twice, an ORDER BY that SQL Server refuses here
                    return None

        return preview_queries(settings.all_queries, rows, count, samples)

    @contextmanager
    def _reading(self, settings: Any, ctx: Fetching) -> Iterator[Connection]:
        """A connection in a read-only transaction."""
        from sqlalchemy.exc import DBAPIError, NoSuchModuleError

        try:
            engine = self._engine(settings, ctx)
        except (NoSuchModuleError, ModuleNotFoundError) as error:
            raise MissingAccess(f"the driver {settings.driver or self.driver} is not installed", why=str(error), next="pip install it, or choose another with driver:") from None
        try:
            try:
                connection = engine.connect()
            except DBAPIError as error:
                raise ForgeError(f"no connection to the {self.name} database", why=_reason(error), next="check url_env, or host, port, database, user and password_env") from None
            with connection:
                options: dict[str, Any] = {"isolation_level": "REPEATABLE READ"} if self.name in ("postgresql", "mysql") else {}
                if self.name == "postgresql":
                    options["postgresql_readonly"] = True
                connection = connection.execution_options(**options)
                _set_limits(connection, self.name, settings.timeout_seconds)
                yield connection
        finally:
            engine.dispose()

    def _engine(self, settings: Any, ctx: Fetching) -> Engine:
        from sqlalchemy import create_engine, event
        from sqlalchemy.pool import NullPool

        if self.name == "sqlite":
            return create_engine("sqlite://", creator=lambda: _open_sqlite(settings, ctx), poolclass=NullPool)
        arguments: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS} if self.name in ("postgresql", "mysql") else {}
        engine = create_engine(self._url(settings, ctx), poolclass=NullPool, connect_args=arguments, hide_parameters=True)
        if self.name == "mysql":
            event.listen(engine, "connect", _mysql_read_only)
        return engine

    def _url(self, settings: ServerSettings, ctx: Fetching) -> URL:
        from sqlalchemy.engine import URL, make_url
        from sqlalchemy.exc import ArgumentError

        driver = settings.driver or self.driver
        drivername = f"{self.name}+{driver}"
        password = ctx.secret(settings.password_env) if settings.password_env else None
        if settings.host:
            return URL.create(drivername, settings.user or None, password, settings.host, settings.port, settings.database or None, settings.options)
        text = ctx.secret(settings.url_env) if settings.url_env else settings.url
        try:
            url = make_url(text)
        except ArgumentError:
            raise UsageError(f"{settings.url_env or 'url'} is no database URL", why="it looks like postgresql://user@host:5432/database", next="mend it") from None
        known = {"postgres": "postgresql", "mariadb": "mysql"}.get(url.get_backend_name(), url.get_backend_name())
        if known != self.name:
            raise UsageError(f"{settings.url_env or 'url'} is for {known}", why=f"the kind is {self.name}", next=f"write kind: {known}")
        if url.password:
            ctx.hide(str(url.password))
        url = url.set(drivername=drivername).update_query_dict(settings.options)
        return url.set(password=password) if password else url


def _rows(connection: Connection, query: str) -> Iterator[Row]:
    """The rows as they come, FETCH_ROWS at a time; %, : and ? in the query are not parameters."""
    options = {"no_parameters": True, "stream_results": True, "max_row_buffer": FETCH_ROWS}
    found = connection.exec_driver_sql(query, execution_options=options)
    names = unique_names(found.keys())
    for part in found.partitions(FETCH_ROWS):
        for row in part:
            yield dict(zip(names, row, strict=True))


@contextmanager
def _asked(query: Query) -> Iterator[None]:
    """A database's error as ours: its own words, without the statement and its parameters."""
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    try:
        yield
    except DBAPIError as error:
        raise ForgeError(f'the query "{query.name}" fails', why=_reason(error), next="try the query in the database's own client; timeout_seconds limits its time") from None
    except SQLAlchemyError as error:
        raise ForgeError(f'the query "{query.name}" fails', why=str(error), next="write a query that returns rows") from None


def _set_limits(connection: Connection, kind: str, seconds: float) -> None:
    """Read-only and limited in time for this transaction, in the server's own words."""
    statements = {
        "postgresql": [f"SET LOCAL statement_timeout = {max(1, int(seconds * 1000))}", "SET LOCAL TIME ZONE 'UTC'"],
        "mysql": [f"SET SESSION max_statement_time = {seconds:.3f}" if getattr(connection.dialect, "is_mariadb", False) else f"SET SESSION max_execution_time = {int(seconds * 1000)}"],
        "oracle": ["SET TRANSACTION READ ONLY"],
    }
    for statement in statements.get(kind, []):
        connection.exec_driver_sql(statement)
    if kind == "sqlite":
        deadline = time.monotonic() + seconds
        raw: Any = connection.connection.driver_connection
        raw.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)


def _mysql_read_only(raw: Any, _record: object) -> None:
    with raw.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION READ ONLY")
        cursor.execute("SET SESSION time_zone = '+00:00'")


def _open_sqlite(settings: SqliteSettings, ctx: Fetching) -> Any:
    import sqlite3

    path = (ctx.base / Path(settings.path).expanduser()).resolve()
    if not path.is_file():
        raise UsageError(f"there is no file at {path}", why="relative paths start from the folder of sources.yaml", next="mend path")
    raw = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, check_same_thread=False)
    raw.text_factory = lambda data: data.decode("utf-8", "replace")
    raw.execute("PRAGMA query_only = ON")
    return raw


def _reason(error: Any) -> str:
    return " ".join(str(error.orig).split())[:500]


SQLALCHEMY = Requirement(module="sqlalchemy", extra="sources")
postgresql = SqlSource("postgresql", "psycopg", ServerSettings, (SQLALCHEMY, Requirement(module="psycopg", extra="sources")))
mysql = SqlSource("mysql", "pymysql", ServerSettings, (SQLALCHEMY, Requirement(module="pymysql", extra="sources")))
sqlite = SqlSource("sqlite", "pysqlite", SqliteSettings, (SQLALCHEMY,))
mssql = SqlSource("mssql", "pyodbc", ServerSettings, (Requirement(module="sqlalchemy", extra="mssql"), Requirement(module="pyodbc", extra="mssql")))
oracle = SqlSource("oracle", "oracledb", ServerSettings, (Requirement(module="sqlalchemy", extra="oracle"), Requirement(module="oracledb", extra="oracle")))
