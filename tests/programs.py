"""Programs outside of Python that some tests use for real: OCR, unpackers, database servers.

On a developer's machine a test whose program is missing is skipped and says how to install it. In CI nothing may be
skipped for that reason: .ci/run sets FORGE_ALL_PROGRAMS=1, and the same test fails.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

REQUIRED = os.environ.get("FORGE_ALL_PROGRAMS") == "1"


def program(name: str, *patterns: str, install: str) -> str:
    """The program's path, from PATH or the newest match of the glob patterns below "/"; else the test ends here."""
    if found := shutil.which(name):
        return found
    places = sorted(str(place) for pattern in patterns for place in Path("/").glob(pattern.lstrip("/")) if os.access(place, os.X_OK))
    if places:
        return places[-1]
    reason = f"{name} is not installed: {install}"
    if REQUIRED:
        pytest.fail(reason)
    pytest.skip(reason)
