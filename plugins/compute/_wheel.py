"""The running slm-forge as a wheel, for machines that install it: the same bytes from a checkout and from an installed copy."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

DISTRIBUTION = "slm-forge"
LEFT_OUT = ("__pycache__",)
DATE = (1980, 1, 1, 0, 0, 0)
"""Of every member: the bytes depend on the code alone."""


def build_wheel(folder: Path) -> Path:
    """Write the wheel into `folder` and return its path."""
    version = distribution(DISTRIBUTION).version
    info = f"slm_forge-{version}.dist-info"
    members = {**dict(package_files()), **_metadata(info)}
    members[f"{info}/RECORD"] = _record(members, f"{info}/RECORD")
    wheel = folder / f"slm_forge-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(members.items()):
            archive.writestr(zipfile.ZipInfo(name, DATE), data, zipfile.ZIP_DEFLATED)
    return wheel


def package_files() -> Iterator[tuple[str, bytes]]:
    """(path in the wheel, bytes) of every file of the package, whether its folders are links of a checkout or not."""
    import forge

    root = Path(forge.__file__).parent
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT and not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and not name.endswith((".pyc", ".partial")):
                path = Path(folder, name)
                yield f"forge/{path.relative_to(root).as_posix()}", path.read_bytes()


def code_sha256() -> str:
    """One hash over the package: two installations with the same one run the same code."""
    hasher = hashlib.sha256()
    for name, data in sorted(package_files()):
        hasher.update(f"{name} {hashlib.sha256(data).hexdigest()}\n".encode())
    return hasher.hexdigest()


def _metadata(info: str) -> dict[str, bytes]:
    found = distribution(DISTRIBUTION)
    texts = {name: found.read_text(name) or "" for name in ("METADATA", "entry_points.txt")}
    wheel = "Wheel-Version: 1.0\nGenerator: slm-forge\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    return {f"{info}/{name}": text.encode() for name, text in {**texts, "WHEEL": wheel}.items()}


def _record(members: dict[str, bytes], own: str) -> bytes:
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    for name, data in sorted(members.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.writerow([name, f"sha256={digest}", len(data)])
    rows.writerow([own, "", ""])
    return out.getvalue().encode()
