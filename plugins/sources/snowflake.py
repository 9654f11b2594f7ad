"""Snowflake through its own connector. Not exercised in our tests: it exists only as a paid service.

A query runs on your warehouse and costs what it costs there; slm-forge's budget does not see it.
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
LOGIN_SECONDS = 30


class SnowflakeSettings(SqlSettings):
    """A Snowflake account and queries to it."""

    account: str = Field(min_length=1, description="the account identifier")
    user: str = Field(min_length=1, description="the user; best one whose role may only read")
    password_env: str = Field("", description="environment variable with the password or a programmatic access token")
    private_key_file: str = Field("", description="a key file instead of a password")
    private_key_password_env: str = Field("", description="environment variable with the key file's passphrase")
    warehouse: str = Field("", description="the warehouse that works (and bills)")
    database: str = Field("", description="the database")
    schema_name: str = Field("", description="the schema")
    role: str = Field("", description="the role")


class SnowflakeSource:
    """Queries to Snowflake."""

    name: ClassVar[str] = "snowflake"
    requires: ClassVar[tuple[Requirement, ...]] = (Requirement(module="snowflake.connector", extra="snowflake"),)
    settings: ClassVar[type[Settings]] = SnowflakeSettings

    def fetch(self, settings: SnowflakeSettings, folder: Path, ctx: Fetching) -> Mapping[str, Any]:
        """One file per query; facts: the rows of each."""
        counts = {}
        for query in settings.all_queries:
            with _asked(settings, query, ctx) as rows:
                counts[query.name] = write_rows(query, rows, folder, settings, ctx)
        return {"rows": counts}

    def preview(self, settings: SnowflakeSettings, samples: int, ctx: Fetching) -> Preview:
        """First rows only: counting would run (and bill) every query in full."""
        return preview_queries(
            settings.all_queries, lambda query: _asked(settings, query, ctx), lambda query: None, samples, note="not counted: it would be billed"
        )


@contextmanager
def _asked(settings: SnowflakeSettings, query: Query, ctx: Fetching) -> Iterator[Iterator[Row]]:
    import snowflake.connector as snowflake

    login: dict[str, Any] = {
        "account": settings.account, "user": settings.user, "warehouse": settings.warehouse, "database": settings.database,
        "schema": settings.schema_name, "role": settings.role,
    }
    if settings.password_env:
        login["password"] = ctx.secret(settings.password_env)
    if settings.private_key_file:
        login["private_key_file"] = str((ctx.base / Path(settings.private_key_file).expanduser()).resolve())
    if settings.private_key_password_env:
        login["private_key_file_pwd"] = ctx.secret(settings.private_key_password_env)
    session = {"STATEMENT_TIMEOUT_IN_SECONDS": max(1, int(settings.timeout_seconds)), "TIMEZONE": "UTC", "QUERY_TAG": "slm-forge"}
    try:
        with snowflake.connect(login_timeout=LOGIN_SECONDS, session_parameters=session, **{key: value for key, value in login.items() if value}) as connection:
            cursor = connection.cursor().execute(query.query)
            names = unique_names(column[0] for column in cursor.description)
            yield (dict(zip(names, row, strict=True)) for part in iter(lambda: cursor.fetchmany(FETCH_ROWS), []) for row in part)
    except snowflake.errors.Error as error:
        raise ForgeError(f'the query "{query.name}" fails', why=" ".join(str(error).split())[:500], next="check account, user, role and the query") from None


source = SnowflakeSource()
