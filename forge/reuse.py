"""Takes a phase's result over from an earlier run that had the same inputs, settings, code and plugins.

Offered by phases whose result is a pure function of these (Phase.identity, Phase.reusable). The cache holds only where
the artifacts lie and their hashes; one that is gone or has changed is a result that has to be made again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from forge.cache import Cache
from forge.phase import Output
from forge.store import Store, hash_file

FILE = "phases.db"
MAX_BYTES = 64 << 20
"""Room for some 50,000 results: each is a few hashes and numbers."""


def keep(cache: Path, key: str, store: Store, outputs: Sequence[Output], metrics: Mapping[str, Any]) -> None:
    """Remember where a finished phase's artifacts lie. Folders are not kept."""
    artifacts = [store.get(output.name) for output in outputs]
    if not all(artifact and not artifact.is_folder for artifact in artifacts):
        return
    files = {artifact.name: [str(store.blob(artifact.sha256).resolve()), artifact.sha256] for artifact in artifacts if artifact}
    with Cache(cache / FILE, max_bytes=MAX_BYTES) as known:
        known.put(key, json.dumps({"files": files, "metrics": dict(metrics)}, sort_keys=True).encode())


def take_over(cache: Path, key: str, outputs: Mapping[str, Path]) -> dict[str, Any] | None:
    """Put the artifacts of an earlier result at `outputs` and return its numbers; None when there is none that is whole."""
    with Cache(cache / FILE, max_bytes=MAX_BYTES) as known:
        data = known.get(key)
    found = json.loads(data) if data else {"files": {}}
    if set(found["files"]) != set(outputs):
        return None
    try:
        for name, (blob, sha256) in found["files"].items():
            outputs[name].unlink(missing_ok=True)
            outputs[name].hardlink_to(blob)   # read only, and unlinked when the next attempt begins
            if hash_file(outputs[name]) != sha256:
                raise OSError(f"{blob} has changed")
    except OSError:
        for path in outputs.values():
            path.unlink(missing_ok=True)
        return None
    return dict(found["metrics"])
