"""What the shell completes: run ids, phases, recipes. Never fails: a shell has no place for an error."""

from __future__ import annotations


def run_names(incomplete: str) -> list[tuple[str, str]]:
    """Run ids that start so, newest first, each with its corpus."""
    from forge.errors import ForgeError
    from forge.run import Run, run_ids

    found = []
    for run_id in run_ids():
        if run_id.startswith(incomplete):
            try:
                found.append((run_id, Run.open(run_id).corpus.name))
            except ForgeError:
                found.append((run_id, "damaged"))
    return found


def phase_names(incomplete: str) -> list[str]:
    """Phases that start so."""
    from forge.registry import Registry

    return [name for name in Registry().phase_names() if name.startswith(incomplete)]


def recipe_names(incomplete: str) -> list[str]:
    """Shipped recipes that start so."""
    from forge.config import recipe_names as names

    return [name for name in names() if name.startswith(incomplete)]
