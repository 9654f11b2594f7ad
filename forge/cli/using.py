"""Commands about finished models: compare, champion, track, serve, publish-data, demo."""

from __future__ import annotations

from pathlib import Path

import typer

from forge import ui
from forge.cli.complete import run_names

PANEL = "Use"
Json = typer.Option(False, "--json", help="As JSON.")
RunId = typer.Argument("", metavar="RUN", help="Run id; without one, the newest run.", show_default=False, autocompletion=run_names)


def add(app: typer.Typer) -> None:
    """Put the commands on the application."""
    for function in (compare, champion, track, serve, publish_data, demo):
        app.command(rich_help_panel=PANEL)(function)


def compare(
    runs: list[str] = typer.Argument(..., metavar="RUN RUN [...]", help="Run ids; RUN:base is what RUN's base said. All are compared with the first.", show_default=False, autocompletion=run_names),
    html: Path | None = typer.Option(None, "--html", metavar="FILE", help="Also write a page with the answers side by side.", show_default=False),
    as_json: bool = Json,
) -> None:
    """Compare models on the test rows that they share, paired; says so when there is no difference."""
    from forge.cli.comparing import show_comparison
    from forge.errors import UsageError

    if len(runs) < 2:
        raise UsageError("compare takes at least two runs", why=f"{len(runs)} was given", next=f"forge compare {runs[0]}:base {runs[0]}")
    show_comparison(runs, html, as_json=as_json)


def champion(
    run_id: str = typer.Argument("", metavar="RUN", help="Only this model, with its numbers and what it comes from.", show_default=False, autocompletion=run_names),
    promote: str = typer.Option("", "--promote", metavar="RUN", help="Make RUN the champion: only past every gate, and only if better than the champion.", show_default=False, autocompletion=run_names),
    as_json: bool = Json,
) -> None:
    """The model in use for each corpus and task, and its challenger; --promote changes it."""
    from forge.cli import champions

    if promote:
        champions.promote(promote, as_json=as_json)
    elif run_id:
        champions.show_model(run_id, as_json=as_json)
    else:
        champions.show_all(as_json=as_json)


def track(
    runs: list[str] = typer.Argument(None, metavar="[RUN ...]", help="Runs with a model; without one, all of them.", show_default=False, autocompletion=run_names),
    to: str = typer.Option("", "--to", metavar="URI", help="Where the tracker is, for example http://localhost:5000 [a sqlite file below FORGE_HOME].", show_default=False),
    tracker: str = typer.Option("mlflow", "--tracker", help="Which tracker."), as_json: bool = Json,
) -> None:
    """Mirror finished models to MLflow: numbers with intervals, curves, lineage. Doing it again changes nothing."""
    from forge.cli.champions import registered
    from forge.registry import Registry
    from forge.tracking import mirror

    registered()
    where, changed = mirror(Registry(), tracker, runs or [], to)
    if as_json:
        ui.out_json({"tracker": tracker, "where": where, "changed": list(changed)})
        return
    ui.out(f"{', '.join(changed) or 'nothing new'} → {tracker} at {where}")
    ui.next_step(f"mlflow ui --backend-store-uri {where}" if where.startswith("sqlite") else f"open {where}")


def serve(
    run_id: str = RunId, port: int = typer.Option(8080, "--port", min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one."),
    engine: str = typer.Option("forge", "--engine", help="forge, or llama-server: llama.cpp's own from PATH, for a GPU and many clients."),
    as_json: bool = Json,
) -> None:
    """Serve RUN's published model to OpenAI clients on this machine, with the shipped settings."""
    from forge.cli.chatting import serve as serve_model

    serve_model(run_id, port, engine=engine, as_json=as_json)


def publish_data(
    run_id: str = RunId,
    to: str = typer.Option("folder", "--to", metavar="HUB", help="folder, or the name of a hub such as huggingface."),
    repo: str = typer.Option("", "--repo", metavar="OWNER/NAME", help="Repository on that hub [the token's owner, the model's name with -data].", show_default=False),
    visibility: str = typer.Option("private", "--visibility", help="private or public, on a hub."),
    license: str = typer.Option("", "--license", metavar="ID", help="Licence of the rows; needed for a hub.", show_default=False),
    quotes: bool = typer.Option(False, "--quotes", help="Also publish rows that quote the documents: only where their licence allows that."),
    terms: str = typer.Option("", "--terms", metavar="TEXT", help="What you decided about terms that no program can judge; shown on the card.", show_default=False),
    hub_dir: str = typer.Option("", "--hub-dir", metavar="FOLDER", help="Where the folder goes [publish.hub_dir].", show_default=False), as_json: bool = Json,
) -> None:
    """Publish RUN's questions and answers as a data set: never the documents' text unless asked, searched for secrets and personal data."""
    from forge.cli.sharing import publish_data as publish
    from forge.errors import UsageError

    if visibility not in ("private", "public"):
        raise UsageError(f'--visibility cannot be "{visibility}"', why="it is private or public", next="forge publish-data --help")
    wish = {"to": to, "repo": repo, "visibility": visibility, "license": license, "quotes": quotes, "terms": terms, "hub_dir": hub_dir}
    publish(run_id, wish, as_json=as_json)


def demo(
    run_id: str = RunId,
    to: str = typer.Option("folder", "--to", metavar="HUB", help="folder, or the name of a hub such as huggingface."),
    repo: str = typer.Option("", "--repo", metavar="OWNER/NAME", help="Space on that hub [the token's owner, the model's name with -demo].", show_default=False),
    visibility: str = typer.Option("private", "--visibility", help="private or public, never more than the model's."),
    hub_dir: str = typer.Option("", "--hub-dir", metavar="FOLDER", help="Where the folder goes [publish.hub_dir].", show_default=False), as_json: bool = Json,
) -> None:
    """Make a page to try RUN's model on (Gradio, for a free Hugging Face Space), if its file fits there."""
    from forge.cli.sharing import make_demo
    from forge.errors import UsageError

    if visibility not in ("private", "public"):
        raise UsageError(f'--visibility cannot be "{visibility}"', why="it is private or public", next="forge demo --help")
    make_demo(run_id, to, {"repo": repo, "visibility": visibility, "hub_dir": hub_dir}, as_json=as_json)
