"""How long the machine under this process will still be there.

What watches a job says it when it starts it (FORGE_SECONDS_LEFT), since it is what ends the job; the worker turns that into a moment of
the clock that runs since boot, which its own children share. No change of the wall clock moves it.
"""

from __future__ import annotations

import os
import time

SECONDS_LEFT, ENDS_AT = "FORGE_SECONDS_LEFT", "FORGE_ENDS_AT"


def begin() -> None:
    """Take over what the watcher said, at the start of a worker."""
    if told := os.environ.pop(SECONDS_LEFT, ""):
        os.environ[ENDS_AT] = f"{time.monotonic() + float(told):.3f}"


def seconds_left() -> float | None:
    """Seconds until the machine ends itself; None where nobody has said when."""
    told = os.environ.get(ENDS_AT, "")
    return max(0.0, float(told) - time.monotonic()) if told else None
