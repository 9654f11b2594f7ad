"""Which settings exist: "run", "gate" and one section per phase, from the phases themselves."""

from __future__ import annotations

from typing import Any

from forge.config import GateSettings, RunSettings
from forge.machines import provider_sections
from forge.phase import Phase, Settings
from forge.pipeline import in_order
from forge.registry import Registry


def ordered_phases(registry: Registry) -> list[Phase[Any]]:
    """All phases in the order of a run, the always-running ones last."""
    phases = [registry.phase(name) for name in registry.phase_names()]
    return [*in_order([phase for phase in phases if not phase.always]), *[phase for phase in phases if phase.always]]


def all_sections(registry: Registry) -> dict[str, type[Settings]]:
    """Section name -> its model: run and gate first, then the phases in order, then the providers that have settings."""
    phases = {phase.name: phase.settings for phase in ordered_phases(registry)}
    return {"run": RunSettings, "gate": GateSettings, **phases, **provider_sections(registry)}
