"""`forge demo`: a page to try the published model on, as a folder that a Hugging Face Space runs: app, requirements, the file itself.

Only what has passed the gates of publish goes to a hub: the run's model must lie there already, and a demo is never more visible
than it. The file must fit the free tier; that is checked before anything is copied.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml

from forge.errors import GateFailed, UsageError
from forge.phases.publish.hub_folder import FolderHub, copy_files, list_files
from forge.phases.publish.leaks import find_machine_paths, find_secrets
from forge.phases.publish.modelfile import parse_modelfile
from forge.protocols import Shipment
from forge.records import Record, digest

FOLDER = "spaces"
GRADIO = "6.31.0"
REQUIREMENTS = "--extra-index-url https://abetlen.github.io/llama-cpp-python/whl/cpu\nllama-cpp-python>=0.3.30,<0.4\n"
"""The index has builds for any x86-64; without it a Space compiles llama.cpp for many minutes."""

FREE_MEMORY, FREE_BYTES_PER_SECOND, SLOWEST = 16 * 10**9, 10 * 10**9, 1.0
"""The free tier: 2 processors and 16 GB (huggingface.co/docs/hub/spaces-overview, 2026-11); about 10 GB a second from its memory, all of
the file for each token, so the slowest that is still a demo is a token a second."""
ROOM = 0.75
"""Share of the memory that the file may take; the rest is for its context, Python and the page."""


class DemoWish(Record):
    """What a person asks for."""

    hub_dir: str
    repo: str = ""
    visibility: Literal["private", "public"] = "private"


class DemoMade(Record):
    """Where the demo lies, how large its file is, and about how many tokens a second the free tier gives."""

    name: str
    folder: str
    url: str
    bytes: int
    tokens_per_second: float


def make_demo(
    model: Path, publication: Path, told: Mapping[str, Any], *, remote: Any = None, check_stop: Callable[[], None] = lambda: None
) -> DemoMade:
    """Write the demo of a published folder. told: the fields of DemoWish; remote: a hub plugin, for anything but a folder.

    Raises UsageError for a file that the free tier cannot hold, GateFailed for a model that may not leave this machine.
    """
    wish = DemoWish.model_validate(told)
    facts = json.loads(publication.read_text(encoding="utf-8"))
    name, main = f"{facts['name']}-demo", model / facts["main_file"]
    size = main.stat().st_size
    speed = fits_free_tier(size, main.name)
    if remote:
        _check_leaving(facts, wish)
        remote.preflight(wish.repo, name, kind="space")
    hub = FolderHub(Path(wish.hub_dir) / FOLDER)
    with hub.locked():
        staged = hub.staging(name)
        copy_files({
            "app.py": render_app(model, facts), "requirements.txt": REQUIREMENTS, "README.md": _readme(facts, name), "model.gguf": main,
        }, staged)
        _check(staged)
        check_stop()
        hub.publish(name, staged)
        url = _send(remote, hub.root / name, name, wish, check_stop) if remote else ""
    return DemoMade(name=name, folder=str(hub.root / name), url=url, bytes=size, tokens_per_second=speed)


def fits_free_tier(size: int, name: str) -> float:
    """About how many tokens a second the free tier gives a file of this size. Raises UsageError when it cannot hold or is no demo."""
    speed = FREE_BYTES_PER_SECOND / max(size, 1)
    if size > ROOM * FREE_MEMORY or speed < SLOWEST:
        raise UsageError(
            f"{name} is too large for a free Space", why=f"{size / 1e9:.1f} GB; it has {FREE_MEMORY / 1e9:.0f} GB of memory, and about {speed:.1f} tokens a second",
            next="forge resume --set plan_fit.quantizations='[\"F16\",\"Q4_K_M\"]' for a smaller file, or choose a smaller base",
        )
    return float(f"{min(speed, 100.0):.3g}")


def render_app(model: Path, facts: Mapping[str, Any]) -> str:
    """app.py with the prompt and the lengths of the Modelfile."""
    import jinja2

    modelfile = parse_modelfile((model / "Modelfile").read_text(encoding="utf-8"))
    sampling = modelfile.sampling
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    environment.filters["pyrepr"] = lambda text: json.dumps(text, ensure_ascii=False)
    template = (files("forge.phases.publish") / "demo_app.py.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        name=facts["name"], about=facts.get("first_line") or facts.get("headline") or "", system=modelfile.system,
        context_tokens=int(sampling.get("num_ctx", 0)) or 2048, answer_tokens=int(sampling.get("num_predict", 0)) or 256,
    )


def _readme(facts: Mapping[str, Any], name: str) -> str:
    remote = facts.get("remote") or {}
    meta: dict[str, Any] = {
        "title": facts["name"], "colorFrom": "blue", "colorTo": "indigo", "sdk": "gradio", "sdk_version": GRADIO, "app_file": "app.py", "pinned": False,
    }
    if remote.get("repo"):
        meta["models"] = [remote["repo"]]
    told = facts.get("first_line") or facts.get("headline") or ""
    where = f"Its card: {remote['url']}" if remote.get("url") else "Its card lies beside the model."
    text = f"# {name}\n\n{told}\n\n{where}\n\nRuns the measured file `{Path(facts['main_file']).name}` with its system prompt, greedy.\n"
    return f"---\n{yaml.safe_dump(meta, sort_keys=False, allow_unicode=True)}---\n\n{text}"


def _check_leaving(facts: Mapping[str, Any], wish: DemoWish) -> None:
    remote = facts.get("remote")
    if not remote:
        raise GateFailed(
            "the model has not been published to a hub", why="a demo carries its weights, so the gates of publish hold for it",
            next="forge resume --from publish --set plan_fit.hub=huggingface --set plan_fit.visibility=private",
        )
    if wish.visibility == "public" and remote.get("visibility") != "public":
        raise GateFailed("a demo cannot be more visible than its model", why=f"the model is {remote.get('visibility')}", next="forge demo --visibility private")


def _check(staged: Path) -> None:
    """What is generated must compile and hold no credential and no folder of this machine."""
    problems = []
    for file in ("app.py", "requirements.txt", "README.md"):
        text = (staged / file).read_text(encoding="utf-8")
        problems += [f"{file} contains a secret: {kind}" for kind in find_secrets(text)]
        problems += [f"{file} contains the machine path {path}" for path in find_machine_paths(text)]
    try:
        compile((staged / "app.py").read_text(encoding="utf-8"), "app.py", "exec")
    except SyntaxError as error:
        problems.append(f"app.py:{error.lineno}: {error.msg}")
    if problems:
        raise GateFailed("the demo failed its checks", why="; ".join(problems), next="mend what it names, then forge demo again")


def _send(remote: Any, folder: Path, name: str, wish: DemoWish, check_stop: Callable[[], None]) -> str:
    version = digest(*(f"{file.path} {file.sha256}" for file in list_files(folder)))[:12]
    sent = remote.publish(Shipment(
        folder=folder, name=name, repo=wish.repo, visibility=wish.visibility, tag=f"demo-{version}", message=name, check_stop=check_stop, kind="space",
    ))
    return str(sent.url)
