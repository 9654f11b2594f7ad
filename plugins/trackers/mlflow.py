"""Mirrors runs into an MLflow tracking store or server: parameters, numbers with intervals, loss curves, lineage as tags.

MLflow stays a mirror: nothing is ever read back from it but which runs it holds. A run is found again by its tags, so that
mirroring twice changes nothing, and one that was forged anew replaces its former self (MLflow's parameters cannot change).
mlflow-skinny with SQLAlchemy and Alembic is enough for a sqlite store (3.17, 2026-11-21); with `mlflow` installed, `mlflow ui` shows it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from forge.errors import ForgeError
from forge.phase import Requirement
from forge.protocols import Tracked

RUN_TAG, CONTENT_TAG = "forge.run", "forge.sha256"
PARAM_LONGEST, BATCH = 500, 1000
"""MLflow's limits: characters of a parameter's value (6000 in a database, 500 on older servers), metrics of one call."""


class MLflowTracker:
    """One MLflow run for each forged model, in an experiment for each corpus and task."""

    name: ClassVar[str] = "mlflow"
    requires: ClassVar[tuple[Requirement, ...]] = tuple(
        Requirement(module=module, extra="mlflow") for module in ("mlflow", "sqlalchemy", "alembic")
    )
    default: ClassVar[str] = "sqlite:///{home}/mlflow.db"

    def mirror(self, rows: Sequence[Tracked], where: str) -> tuple[str, ...]:
        """Make the store hold these runs; returns the ids of those that were new or had changed. Raises ForgeError when it cannot be reached."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")   # seven, with waits of minutes, unless told
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        for logger in ("mlflow", "alembic"):
            logging.getLogger(logger).setLevel(logging.WARNING)
        try:
            client = MlflowClient(tracking_uri=where)
            return tuple(row.run for row in rows if _put(client, row))
        except (MlflowException, OSError) as error:
            raise ForgeError(
                f"the MLflow store at {where} cannot be written", why=" ".join(str(error).split())[:300],
                next="forge track --to URI, for example sqlite:////path/mlflow.db or http://localhost:5000",
            ) from error


tracker = MLflowTracker()


def _put(client: Any, row: Tracked) -> bool:
    experiment = _experiment(client, row.place)
    held = client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{row.run}'")
    same = [one for one in held if one.data.tags.get(CONTENT_TAG) == row.sha256 and one.info.status == "FINISHED"]
    for old in held:
        if old not in same[:1]:
            client.delete_run(old.info.run_id)   # forged anew, or left unfinished by a process that was killed
    if same:
        return False
    tags = {**row.tags, RUN_TAG: row.run, CONTENT_TAG: row.sha256}
    made = client.create_run(experiment, start_time=round(row.started * 1000), tags=tags, run_name=row.name).info.run_id
    for metrics, params in _batches(row):
        client.log_batch(made, metrics=metrics, params=params)
    client.set_terminated(made, status="FINISHED", end_time=round(row.ended * 1000))
    return True


def _experiment(client: Any, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:     # another process made it just now
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def _batches(row: Tracked) -> Iterator[tuple[list[Any], list[Any]]]:
    """All metrics, at most BATCH a call; the parameters with the first."""
    from mlflow.entities import Metric, Param

    at = round(row.ended * 1000)
    metrics = [Metric(name, value, at, 0) for name, value in sorted(row.metrics.items())]
    metrics += [Metric(name, value, at, step) for name, curve in sorted(row.curves.items()) for step, value in curve]
    params = [Param(name, value[:PARAM_LONGEST]) for name, value in sorted(row.params.items())]
    for start in range(0, max(1, len(metrics)), BATCH):
        yield metrics[start : start + BATCH], params if start == 0 else []
