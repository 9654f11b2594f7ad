"""publish: writes the model card from what was measured, checks it, and puts the model into the hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from forge.errors import GateFailed, UsageError
from forge.phase import Context, Estimate, Output, Requirement, Settings
from forge.records import Plan, canonical_json, write_json
from forge.store import hash_file

if TYPE_CHECKING:
    from forge.phases.publish.facts import Facts
    from forge.phases.publish.hub_folder import FolderHub
    from forge.phases.publish.policy import Decision
    from forge.phases.publish.staged import Staged

LOCAL_HUB = "local"

REHEARSAL_HUB = "work/publish/work/hub"
"""Where ctx.work / "hub" lies in the run's folder (pipeline.py gives each phase work/<phase>/work)."""


class PublishSettings(Settings):
    """What a person may decide about a publication."""

    hub_dir: str = Field(default="hub", description="folder hub; relative to the working directory")
    repo: str = Field(
        default="", pattern=r"^([\w.-]+/)?[\w.-]*$", description="repository of the hub (OWNER/NAME); empty: the token's owner and the model's name"
    )
    license: str = Field(default="", description="licence id; empty: the base's, or none chosen for a model from scratch")
    license_file: str = Field(default="", description="a file with the full text of the licence; needed where the base's own asks for a copy and brings none")
    terms: str = Field(
        default="", description="what you decided about terms that no program can judge (the teacher's, restrictive licences of documents); shown on the card"
    )
    try_snippets: bool = Field(default=True, description="run the Python on the card before publishing; models up to 200M parameters, not in a rehearsal")
    publish_anyway: str = Field(
        default="", description="reason for letting a model of unproven quality leave the machine; shown on its card"
    )


class Publish:
    """Card, validator, gates, folder hub."""

    name: ClassVar[str] = "publish"
    VERSION: ClassVar[int] = 3
    summary: ClassVar[str] = "write the model card from measured facts, check it, and put the model into the hub"
    reads: ClassVar[tuple[str, ...]] = (
        "plan", "approval", "documents", "audit", "shape", "train_report", "eval", "ship_eval", "model", "gguf",
        "modelfile", "adapter", "base_source",
    )
    optional: ClassVar[tuple[str, ...]] = ("base_source",)
    writes: ClassVar[tuple[Output, ...]] = (
        Output(name="card", path="README.md"), Output(name="publication", path="publication.json"),
    )
    settings: ClassVar[type[Settings]] = PublishSettings
    where: ClassVar[Literal["engine", "machine"]] = "engine"
    configs: ClassVar[tuple[str, ...]] = ("energy", "models")
    libraries: ClassVar[tuple[str, ...]] = ("slm-forge",)
    requires: ClassVar[tuple[Requirement, ...]] = ()
    always: ClassVar[bool] = False

    def estimate(self, settings: PublishSettings, ctx: Context) -> Estimate:
        """Copying and hashing; free."""
        return Estimate(seconds_p50=2, seconds_p90=60, basis="a copy and three readings of the model's files")

    def access(self, section: Callable[[str], Any], plugin: Callable[[str, str], Any], plan: Plan | None) -> str:
        """Where the model will go, and that the token may write there: asked of the hub before anything is spent.

        Raises MissingAccess for a token that may not, UsageError for a plan that contradicts itself or a repository of somebody else.
        """
        from forge.phases.publish.licence import open_terms

        wanted, settings = section("plan_fit"), section("publish")
        if wanted.hub == LOCAL_HUB:
            return ""
        _refuse_local(wanted.hub, wanted.visibility)
        teacher = str(section("synth").teacher)
        if (undecided := open_terms(teacher, {})) and not settings.terms:
            raise UsageError(
                "a person has to decide about the teacher's terms", why="; ".join(undecided),
                next='forge resume --set publish.terms="WHAT YOU DECIDED, AND WHY", or --set plan_fit.hub=local',
            )
        found = plugin("hub", wanted.hub).preflight(settings.repo, plan.name if plan else wanted.name)
        return f"will be published to {wanted.hub}: {found}, {wanted.visibility}; its token may write there"

    def run(self, settings: PublishSettings, ctx: Context) -> Mapping[str, float | str]:
        """Measure, decide, render, stage, validate, swap, read back. Raises GateFailed; then nothing is published."""
        from forge.phases.publish.card import render_card
        from forge.phases.publish.facts import read_facts
        from forge.phases.publish.hub_folder import copy_files
        from forge.phases.publish.licence import choose_licence
        from forge.phases.publish.policy import check_approval, decide
        from forge.phases.publish.staged import Staged

        facts = read_facts(ctx, license_file=settings.license_file, terms=settings.terms)
        check_approval(facts, json.loads(ctx.input("approval").read_text(encoding="utf-8")), _hashes(ctx, facts))
        licence = choose_licence(settings.license, facts.plan.base, facts.plan.base_license)
        decision = decide(facts, licence, settings.publish_anyway)
        hub, where = _hub(settings, ctx, facts)
        remote = _remote(settings, ctx, facts)
        ctx.check_stop()
        card = render_card(facts, decision, licence)
        with hub.locked():
            staged = hub.staging(facts.plan.name)
            copy_files(_members(ctx, facts, card, licence), staged)
            _check(Staged(folder=staged, facts=facts, decision=decision, licence=licence), settings, ctx)
            ctx.check_stop()
            files = hub.publish(facts.plan.name, staged)
            away = _ship(remote, hub.root / facts.plan.name, settings, ctx, facts) if remote else None
        ctx.output("card").write_text(card, encoding="utf-8", newline="\n")
        publication = _publication(facts, decision, where, settings, files)
        write_json(ctx.output("publication"), publication | ({"remote": {"hub": facts.plan.hub, **away}} if away else {}))
        place = away["url"] if away else f"{where['hub']}/{facts.plan.name}"
        ctx.notice(f"published {facts.plan.name} to {place} ({decision.quality})")
        return {
            "summary": f"{place} · {len(files)} files, {sum(file.bytes for file in files) / 1e6:,.1f} MB ·"
            f" quality {decision.quality}",
            "files": len(files), "bytes": sum(file.bytes for file in files), "quality": decision.quality, "published": place,
        }

    def named_files(self, settings: PublishSettings) -> str:
        """A hash over the licence text that the settings name."""
        file = Path(settings.license_file) if settings.license_file else None
        return hash_file(file) if file and file.is_file() else ""

    def undo(self, settings: PublishSettings, ctx: Context) -> None:
        """Remove an unfinished copy from the hub. A finished publication is the user's to remove."""
        from forge.phases.publish.facts import read_facts

        facts = read_facts(ctx)
        _hub(settings, ctx, facts)[0].discard(facts.plan.name)


phase = Publish()


def _hashes(ctx: Context, facts: Facts) -> dict[str, str]:
    """Hashes of the inputs that the plan may be bound to."""
    return {name: ctx.input_sha256(name) for name in ("plan", "audit", "documents", "shape")}


def _hub(settings: PublishSettings, ctx: Context, facts: Facts) -> tuple[FolderHub, dict[str, str]]:
    """The folder hub and how to find it again; a rehearsal publishes into its own work folder.

    What goes to another hub lies here first: it is the copy that the other one is compared with.
    """
    from forge.phases.publish.hub_folder import FolderHub

    if facts.plan.dry_run or ctx.dry_run:
        return FolderHub(ctx.work / "hub"), {"hub": REHEARSAL_HUB, "relative_to": "run folder"}
    return FolderHub(Path(settings.hub_dir)), {"hub": settings.hub_dir, "relative_to": "working directory"}


def _remote(settings: PublishSettings, ctx: Context, facts: Facts) -> Any:
    """The hub that the plan names, checked for access; None for a folder of this machine, and in a rehearsal."""
    if facts.plan.hub == LOCAL_HUB or facts.plan.dry_run or ctx.dry_run:
        return None
    _refuse_local(facts.plan.hub, facts.plan.visibility)
    hub = ctx.use("hub", facts.plan.hub)
    ctx.notice(f"will be published to {facts.plan.hub}: {hub.preflight(settings.repo, facts.plan.name)}, {facts.plan.visibility}")
    return hub


def _refuse_local(hub: str, visibility: str) -> None:
    if visibility == "local":
        raise UsageError(
            f"the plan publishes to {hub}, and says that nothing leaves this machine", why="plan_fit.visibility is local",
            next="forge resume --set plan_fit.visibility=private, or --set plan_fit.hub=local",
        )


def _ship(remote: Any, folder: Path, settings: PublishSettings, ctx: Context, facts: Facts) -> dict[str, str]:
    """Send the published folder to the plan's hub; where it lies there."""
    from forge.protocols import Shipment

    plan = facts.plan
    assert plan.visibility != "local"
    sent = remote.publish(Shipment(
        folder=folder, name=plan.name, repo=settings.repo, visibility=plan.visibility, tag=f"plan-{facts.plan_sha256[:12]}",
        message=f"{plan.name}, plan {facts.plan_sha256[:12]}", check_stop=ctx.check_stop,
    ))
    found: dict[str, str] = sent.model_dump(mode="json")
    return found


def _members(ctx: Context, facts: Facts, card: str, licence: Any) -> dict[str, Path | str]:
    """The allow-list of what is published: relative path -> file or text. Corpus text, journals and state never are."""
    from forge.phases.publish.facts import ADAPTER_FILES, MODEL_FILES
    from forge.phases.publish.licence import licence_files
    from forge.phases.publish.modelfile import ollama_files

    model, adapter = ctx.input("model"), ctx.input("adapter")
    members: dict[str, Path | str] = {
        path.name: path
        for path in model.iterdir() if path.name in MODEL_FILES or path.suffix == ".safetensors"
    }
    members |= {f"adapter/{name}": adapter / name for name in ADAPTER_FILES if (adapter / name).is_file()}
    if "adapter/adapter_config.json" in members:
        members["adapter/adapter_config.json"] = _adapter_config(adapter / "adapter_config.json", facts)
    if facts.adapter_file:
        members[f"adapter/{facts.adapter_file}"] = ctx.input("gguf") / facts.adapter_file
    members |= {file.path: ctx.input("gguf") / file.name for file in facts.shipped}
    members |= licence_files(licence, facts.plan.base, facts.plan.base_license, facts.document_licences, facts.legal)
    shipped_eval = {key: value for key, value in facts.ship_json.items() if key != "answers"}   # answers quote the corpus
    return members | {
        "README.md": card, "Modelfile": facts.modelfile_text, **ollama_files(facts.modelfile),
        "eval.json": _text(facts.eval_json), "ship-eval.json": _text(shipped_eval),
    }


def _adapter_config(path: Path, facts: Facts) -> str:
    """The adapter's configuration with its base by name: peft writes the folder of the machine that trained it."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = facts.plan.base
    return _text(config)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False) + "\n"


def _check(staged: Staged, settings: PublishSettings, ctx: Context) -> None:
    from forge.phases.publish.snippets import run_snippets
    from forge.phases.publish.validate import validate

    problems = validate(staged)
    if not problems and settings.try_snippets and not (staged.facts.plan.dry_run or ctx.dry_run):
        ctx.notice("trying the Python on the card")
        problems, left = run_snippets(staged)
        for reason in left:
            ctx.notice(f"not tried: {reason}")
    if problems:
        raise GateFailed(
            f"the publication failed {len(problems)} check{'s' if len(problems) > 1 else ''}", why="; ".join(problems),
            next="forge logs, then forge resume",
        )


def _publication(
    facts: Facts, decision: Decision, where: Mapping[str, str], settings: PublishSettings, files: list[Any]
) -> dict[str, Any]:
    from forge.phases.publish.card import main_file

    main = main_file(facts)
    return {
        "kind": "folder", **where, "name": facts.plan.name, "visibility": facts.plan.visibility,
        "dry_run": facts.plan.dry_run, "quality": decision.quality, "integrity": decision.integrity,
        "headline": decision.headline,
        "first_line": decision.first_line, "publish_anyway": settings.publish_anyway, "plan_sha256": facts.plan_sha256,
        "main_file": main.path if main else "", "parameters": facts.parameters,
        "files": [json.loads(canonical_json(file)) for file in files],
    }
