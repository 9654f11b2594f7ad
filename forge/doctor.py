"""Checks this machine before anything is started: what is there, what is missing, and the command that brings it.

"ok" and "missing" (an option that is not used) pass; a "problem" stops a local run and makes `forge doctor` exit 1.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from forge import machines
from forge.config import resolve
from forge.errors import ForgeError
from forge.isolate import gaps
from forge.phase import Requirement
from forge.protocols import PLUGIN_KINDS
from forge.records import Record
from forge.registry import Registry, missing
from forge.run import home
from forge.sections import all_sections

MIN_FREE_GB = 5.0
DISTRIBUTION = "slm-forge"
NEEDED_EXTRAS = {"docs", "train", "export"}
"""What a run over a folder on this machine cannot do without."""


class Finding(Record):
    """One check: its state, what was found, and how to change it."""

    name: str
    state: Literal["ok", "missing", "problem"]
    detail: str
    fix: str = ""


def examine() -> list[Finding]:
    """All checks. Starts nothing, needs no network, imports no heavy library."""
    checks: list[Callable[[], list[Finding]]] = [_python, _foreign_forge, _extras, _plugins, _isolation, _gpu, _providers, _llama, _ocr, _disk, _writable, _keys]
    return [finding for check in checks for finding in check()]


def has_problem(findings: list[Finding]) -> bool:
    """True when a local run cannot work."""
    return any(finding.state == "problem" for finding in findings)


def _python() -> list[Finding]:
    text = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}, {os.cpu_count()} cores"
    return [Finding(name="python", state="ok", detail=text)]


def _foreign_forge() -> list[Finding]:
    """PyPI has other packages that install a `forge` module or command."""
    owners = set(importlib.metadata.packages_distributions().get("forge", [])) - {DISTRIBUTION}
    command = shutil.which("forge")
    ours = Path(sys.executable).parent / "forge"
    if owners:
        names = ", ".join(sorted(owners))
        return [Finding(name="name", state="problem", detail=f"{names} also installs a module `forge`", fix=f"pip uninstall {names}")]
    if command and ours.exists() and Path(command).resolve() != ours.resolve():
        return [Finding(name="name", state="problem", detail=f"`forge` on PATH is {command}", fix="use the command slm-forge")]
    return [Finding(name="name", state="ok", detail="no other package is called forge")]


def _extras() -> list[Finding]:
    registry = Registry()
    findings = []
    for extra, needs in sorted(_needs(registry).items()):
        absent = missing(tuple(needs))
        if not absent:
            findings.append(Finding(name=f"extra [{extra}]", state="ok", detail=", ".join(sorted({n.module for n in needs}))))
            continue
        optional = extra not in NEEDED_EXTRAS
        findings.append(
            Finding(
                name=f"extra [{extra}]", state="missing" if optional else "problem",
                detail="not installed: " + ", ".join(sorted({need.module for need in absent})),
                fix=f"pip install 'slm-forge[{extra}]'",
            )
        )
    return findings


def _plugins() -> list[Finding]:
    """Plugins that cannot be imported. An extractor costs its files only, any other one stops the run that uses it."""
    registry, fix = Registry(), "mend the package that brings it, or pip uninstall it"
    findings = []
    for kind, name in [(each, name) for each in PLUGIN_KINDS for name in registry.names(each)]:
        reason = _why_broken(registry, kind, name)
        if reason:
            findings.append(Finding(name=f"{kind} {name}", state="missing", detail=f"cannot be imported: {reason}", fix=fix))
    return findings


def _why_broken(registry: Registry, kind: str, name: str) -> str:
    try:
        return str(getattr(registry.plugin(kind, name, ready=False), "broken", ""))
    except ForgeError as error:
        return error.why


def _isolation() -> list[Finding]:
    """What keeps a file that is made to hurt from doing more than cost itself."""
    if missing_here := gaps():
        return [Finding(name="isolation", state="missing", detail="; ".join(missing_here), fix="read files that you do not trust on Linux 5.13 or later")]
    return [Finding(name="isolation", state="ok", detail="extractors get no network (seccomp) and write only to a scratch folder (Landlock)")]


def _needs(registry: Registry) -> dict[str, set[Requirement]]:
    """Extra -> the modules that phases and plugins want from it."""
    owners = [registry.phase(name) for name in registry.phase_names()]
    for kind in PLUGIN_KINDS:
        owners += [registry.plugin(kind, name, ready=False) for name in registry.names(kind) if not _why_broken(registry, kind, name)]
    needs: dict[str, set[Requirement]] = {}
    for owner in owners:
        for need in (*getattr(owner, "requires", ()), *getattr(owner, "may_require", ())):
            needs.setdefault(need.extra, set()).add(need)
    return needs


def _gpu() -> list[Finding]:
    if shutil.which("nvidia-smi"):
        return [Finding(name="gpu", state="ok", detail="nvidia-smi is on PATH; `forge plan` shows what fits")]
    return [Finding(name="gpu", state="missing", detail="no NVIDIA GPU: models are trained from scratch on the CPU", fix="run on a machine with a GPU")]


def _providers() -> list[Finding]:
    """A line for each provider of machines: whether it can be used from here, as far as that is known without a network."""
    registry = Registry()
    names = [name for name in registry.names("provider") if not _why_broken(registry, "provider", name)]
    try:
        found = machines.providers(registry, resolve(all_sections(registry)))
    except ForgeError as error:
        return [Finding(name="providers", state="problem", detail=f"{error.fact} ({error.why})", fix=error.next)]
    return [_provider(name, found.get(name), registry.plugin("provider", name, ready=False)) for name in names]


def _provider(name: str, provider: Any, plugin: Any) -> Finding:
    if provider is None:
        extra = missing(plugin.requires)[0].extra
        return Finding(name=f"provider {name}", state="missing", detail=f"needs the extra [{extra}]", fix=f"pip install 'slm-forge[{extra}]'")
    reason = str(getattr(provider, "unready", str)())
    if reason:
        what, _, fix = reason.partition(": ")
        return Finding(name=f"provider {name}", state="missing", detail=what, fix=fix or f"forge config show {name}")
    return Finding(name=f"provider {name}", state="ok", detail="can be used; forge plan asks what it offers" if name != "local" else "this machine")


def _llama() -> list[Finding]:
    """Without it a model is exported, but no exported file is opened and compared."""
    if importlib.util.find_spec("llama_cpp"):
        return [Finding(name="llama.cpp", state="ok", detail="files are quantized, opened and compared with the trained model")]
    compiler = any(shutil.which(name) for name in ("c++", "g++", "clang++"))
    fix = "pip install 'slm-forge[gguf]'" if compiler else "install a C++ compiler (apt-get install g++ make), then pip install 'slm-forge[gguf]'"
    return [Finding(name="llama.cpp", state="missing", detail="not installed: only F16 and Q8_0 files, which nothing compares with the model", fix=fix)]


def _ocr() -> list[Finding]:
    found = [*(["tesseract"] if shutil.which("tesseract") else []), *(["rapidocr"] if importlib.util.find_spec("rapidocr") else [])]
    if found:
        return [Finding(name="ocr", state="ok", detail=f"{', '.join(found)}: text in pictures and scanned pages is read")]
    fix = "apt-get install tesseract-ocr, or pip install 'slm-forge[ocr]'"
    return [Finding(name="ocr", state="missing", detail="no OCR: pictures and scanned pages are skipped", fix=fix)]


def _disk() -> list[Finding]:
    place = next(path for path in (home().resolve(), *home().resolve().parents) if path.exists())
    free = shutil.disk_usage(place).free / 1e9
    state: Literal["ok", "problem"] = "ok" if free >= MIN_FREE_GB else "problem"
    fix = "" if state == "ok" else f"free {MIN_FREE_GB:.0f} GB or set FORGE_HOME to another disk"
    return [Finding(name="disk", state=state, detail=f"{free:.0f} GB free at {place}", fix=fix)]


def _writable() -> list[Finding]:
    place = next(path for path in (home().resolve(), *home().resolve().parents) if path.exists())
    if os.access(place, os.W_OK):
        return [Finding(name="runs", state="ok", detail=f"kept in {home()}")]
    return [Finding(name="runs", state="problem", detail=f"{place} is not writable", fix="set FORGE_HOME=FOLDER")]


def _keys() -> list[Finding]:
    wanted = {"ANTHROPIC_API_KEY": "a stronger teacher", "HF_TOKEN": "publishing to the Hugging Face Hub"}
    return [
        Finding(name=name, state="ok", detail="set") if os.environ.get(name)
        else Finding(name=name, state="missing", detail=f"not set; it would unlock {what}", fix=f"export {name}=…")
        for name, what in wanted.items()
    ]
