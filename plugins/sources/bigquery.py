"""BigQuery through google-cloud-bigquery. Not exercised in our tests: it exists only as a paid service.

A query costs what Google bills your project for the bytes it scans; slm-forge's budget does not see it. max_gib_billed
is sent along, and Google refuses a query that would scan more before it runs. Credentials: Google's own chain
(GOOGLE_APPLICATION_CREDENTIALS, gcloud, a service account of the machine).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from forge.errors import ForgeError
from forge.phase import Requirement, Settings
from forge.plugins.sources._rows import Query, Row, SqlSettings, write_rows
from forge.plugins.sources._values import unique_names
from forge.protocols import Fetching, Preview

PAGE_ROWS = 1000
GIB = 1 << 30


class BigQuerySettings(SqlSettings):
    """A Google Cloud project and queries that it pays for."""

    project: str = Field("", description="the project that pays; empty = the one of the credentials")
    location: str = Field("", description="where the data lies (EU, us-central1)")
    max_gib_billed: float = Field(1.0, gt=0, description="most GiB that one query may scan")


class BigQuerySource:
    """Queries to BigQuery."""

    name: ClassVar[str] = "bigquery"
    requires: ClassVar[tuple[Requirement, ...]] = (Requirement(module="google.cloud.bigquery", extra="bigquery"),)
    settings: ClassVar[type[Settings]] = BigQuerySettings

    def fetch(self, settings: BigQuerySettings, folder: Path, ctx: Fetching) -> Mapping[str, Any]:
        """One file per query; facts: the rows of each."""
        counts = {}
        for query in settings.all_queries:
            with _asked(settings, query) as rows:
                counts[query.name] = write_rows(query, rows, folder, settings, ctx)
        return {"rows": counts}

    def preview(self, settings: BigQuerySettings, samples: int, ctx: Fetching) -> Preview:
        """The bytes that the queries would scan, by a dry run, which is free; no rows, which would be billed."""
        scanned = 0
        for query in settings.all_queries:
            with _errors(query):
                client, config = _client(settings, dry_run=True)
                scanned += int(client.query(query.query, job_config=config).total_bytes_processed or 0)
        return Preview(files=len(settings.all_queries), note=f"would scan {scanned / GIB:.3f} GiB; rows are not read, which would be billed")


@contextmanager
def _asked(settings: BigQuerySettings, query: Query) -> Iterator[Iterator[Row]]:
    with _errors(query):
        client, config = _client(settings, dry_run=False)
        found = client.query(query.query, job_config=config).result(page_size=PAGE_ROWS, timeout=settings.timeout_seconds)
        names = unique_names(field.name for field in found.schema)
        yield (dict(zip(names, row.values(), strict=True)) for row in found)


def _client(settings: BigQuerySettings, *, dry_run: bool) -> tuple[Any, Any]:
    from google.cloud import bigquery

    config = bigquery.QueryJobConfig(maximum_bytes_billed=int(settings.max_gib_billed * GIB), dry_run=dry_run, use_legacy_sql=False)
    return bigquery.Client(project=settings.project or None, location=settings.location or None), config


@contextmanager
def _errors(query: Query) -> Iterator[None]:
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except (GoogleAPIError, GoogleAuthError) as error:
        raise ForgeError(f'the query "{query.name}" fails', why=" ".join(str(error).split())[:500], next="check the credentials, project, location and max_gib_billed") from None


source = BigQuerySource()
