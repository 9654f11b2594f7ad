"""slm-forge: a folder of documents and a budget in, a small specialty language model out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forge.errors import ExtractError, ForgeError
    from forge.phase import Context, Output
    from forge.records import Example, Plan

__version__ = "0.1.0"
__all__ = ["Context", "Example", "ExtractError", "ForgeError", "Output", "Plan", "__version__"]

_HOMES = {
    "Context": "forge.phase", "Output": "forge.phase", "Example": "forge.records", "Plan": "forge.records",
    "ExtractError": "forge.errors", "ForgeError": "forge.errors",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are asked for: pydantic alone would double the time of `forge --help`."""
    if name not in _HOMES:
        raise AttributeError(f"module 'forge' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
