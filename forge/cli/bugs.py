"""What happens when slm-forge itself is wrong: a traceback, kept in a file, and where to send it."""

from __future__ import annotations

import platform
import sys
import traceback

from forge import __version__, ui
from forge.errors import ForgeError
from forge.run import home

FILE = "bug.txt"


def record_bug(error: Exception, argv: list[str]) -> ForgeError:
    """Show the traceback (never local variables: keys are near) and keep it; returns the error to tell."""
    trace = "".join(traceback.format_exception(error))
    ui.say(trace.rstrip())
    head = f"slm-forge {__version__}, Python {sys.version.split()[0]}, {platform.platform()}\nforge {' '.join(argv)}\n\n"
    path = home() / FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + trace, encoding="utf-8")
    except OSError as second:
        ui.say(f"the traceback could not be kept: {second}")
        return ForgeError("this is a bug in slm-forge", why=_why(error), next="report the traceback above")
    return ForgeError("this is a bug in slm-forge", why=_why(error), next=f"report it with {path}; what is finished is kept")


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
