"""`forge publish-data` and `forge demo`: what goes beside a model, each by a command of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forge import ui
from forge.cli.result import model_folder
from forge.config import Config, resolve
from forge.errors import UsageError
from forge.registry import Registry
from forge.run import Run
from forge.sections import all_sections


def publish_data(run_id: str, wish: dict[str, Any], *, as_json: bool) -> None:
    """Publish a run's rows; tells where they lie and what was left out."""
    run = Run.open(run_id)
    try:
        registry, config = settings_of(run)
        remote = None if wish["to"] == "folder" else registry.plugin("hub", wish["to"])
        wish = {**wish, "hub_dir": wish["hub_dir"] or str(config.section("publish").hub_dir)}
        found = registry.tool("publish_data")(lambda name: artifact(run, name), wish, remote=remote)
    finally:
        run.close()
    if as_json:
        ui.out_json(found.model_dump(mode="json"))
        return
    ui.table([(split, f"{rows:,}") for split, rows in found.rows.items()], ("split", "rows"))
    ui.lines(f"  left out: {rows:,} rows, {reason}" for reason, rows in found.left_out.items())
    ui.out(f"{found.name}: {found.url or found.folder}")
    ui.next_step(f"open {found.url}" if found.url else f"forge publish-data {run.id} --to huggingface --license ID")


def make_demo(run_id: str, to: str, wish: dict[str, Any], *, as_json: bool) -> None:
    """Make the demo of a run's published model; tells where it lies and how fast it will be."""
    run = Run.open(run_id)
    try:
        registry, config = settings_of(run)
        folder = model_folder(run)
        if folder is None or not folder.is_dir():
            raise UsageError(f"run {run.id} has no published model", why=f"its state is {run.state.get('outcome', 'new')}", next=f"forge resume {run.id}")
        remote = None if to == "folder" else registry.plugin("hub", to)
        wish = {**wish, "hub_dir": wish["hub_dir"] or str(config.section("publish").hub_dir)}
        found = registry.tool("demo")(folder, artifact(run, "publication"), wish, remote=remote)
    finally:
        run.close()
    if as_json:
        ui.out_json(found.model_dump(mode="json"))
        return
    ui.out(f"{found.name}: {found.url or found.folder} ({found.bytes / 1e6:,.1f} MB, at most about {found.tokens_per_second:,.0f} tokens a second on the free tier)")
    ui.next_step(f"open {found.url}" if found.url else f"cd {found.folder} && pip install gradio llama-cpp-python && python app.py")


def settings_of(run: Run) -> tuple[Registry, Config]:
    """The plugins and settings that a run was last started with."""
    registry = Registry(run.plugin_dirs)
    return registry, resolve(all_sections(registry), stored=run.overrides())


def artifact(run: Run, name: str) -> Path:
    """A verified artifact of a run. Raises UsageError when the run did not get that far."""
    found = run.store.get(name)
    if found is None:
        raise UsageError(f"run {run.id} has no {name}", why=f"its state is {run.state.get('outcome', 'new')}", next=f"forge resume {run.id}")
    return run.store.open(found)
