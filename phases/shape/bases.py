"""Which model will be tuned: one from scratch, a folder with a transformers model, or a repository of the Hugging Face Hub.

Only the small files are read here (configuration, tokenizer, model card); the weights of a hub model are fetched at the
same commit by the machine that trains. What is found is the artifact base-source: base.json, the configuration, a tiny one
of the same architecture for rehearsals, and the weights themselves when the base is a local folder.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.config import load_data
from forge.errors import ForgeError, MissingAccess, UsageError, nearest
from forge.phase import Context
from forge.phases.shape.continuing import PREFIX, open_earlier
from forge.protocols import Need
from forge.records import KnownBase, write_json

if TYPE_CHECKING:
    from forge.phases.shape import ShapeSettings

SCRATCH_BASE = KnownBase(kind="scratch", name="scratch", license="apache-2.0")
ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""What quantize can export and prove to be the same model."""
LEGAL_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "USE_POLICY.md", "NOTICE", "NOTICE.txt")
"""They are kept in base-source/legal: some licences ask for a copy beside everything that is made from the base."""
SMALL_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "vocab.json", "merges.txt", "README.md", *LEGAL_FILES,
)
GIB = 1024**3
TINY = {"hidden_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 256, "head_dim": 64}
AUTO_BYTES_PER_PARAMETER = 2.6
"""bf16 weights and what training needs beside them; a GPU with less trains from 4-bit weights, which is a choice to ask for."""


def find_base(settings: ShapeSettings, ctx: Context) -> tuple[KnownBase, Path | None]:
    """The base of this run and the folder with its small files (None from scratch), with the choice told as a notice.

    Raises UsageError for a name that is neither, MissingAccess for a gated one, ForgeError for one that cannot be exported.
    """
    wanted = settings.base
    if wanted == "auto":
        wanted = _automatic(ctx)
    if wanted == "scratch":
        return SCRATCH_BASE, None
    if wanted.startswith(PREFIX):
        run_id, folder, plan = open_earlier(wanted)
        facts = _known(folder, "folder", plan.name, "", settings, ctx)
        return facts.model_copy(update={"continues": run_id, "license": settings.base_license or plan.base_license}), folder
    folder = Path(wanted).expanduser()
    if folder.is_dir():
        return _known(folder, "folder", folder.resolve().name, "", settings, ctx), folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", wanted) or wanted.startswith((".", "/")):
        known = list(load_data("models")["bases"])
        raise UsageError(
            f'the base "{wanted}" is no folder and no id of a model hub', why=nearest(wanted, ["auto", "scratch", *known]),
            next="forge resume --set shape.base=scratch, or a folder with config.json and *.safetensors, or OWNER/NAME",
        )
    folder = fetch(wanted, SMALL_FILES)
    return _known(folder, "hub", wanted, folder.name, settings, ctx), folder


def fetch(name: str, patterns: tuple[str, ...]) -> Path:
    """The snapshot folder (named by its commit) of a hub model with the wanted files, from the cache or the hub."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except Exception as error:  # noqa: BLE001 - becomes an error with its reason
        raise explain(name, error) from None


def explain(name: str, error: Exception) -> ForgeError:
    """What a user can do about a hub that does not give a model."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    reason = " ".join(str(error).split())[:300]
    if isinstance(error, GatedRepoError):
        return MissingAccess(
            f"the base {name} is behind a licence that you have not accepted yet, or there is no token", why=reason,
            next=f"accept it at https://huggingface.co/{name}, run `hf auth login` (or export HF_TOKEN), then forge resume",
        )
    if isinstance(error, (OfflineModeIsEnabled, LocalEntryNotFoundError)):
        return ForgeError(
            f"the base {name} is not in the local cache and the hub cannot be reached", why=reason,
            next=f"hf download {name} where there is a network, or forge resume --set shape.base=FOLDER, or =scratch",
        )
    if isinstance(error, RepositoryNotFoundError):
        return MissingAccess(
            f"there is no base {name} for you on the hub", why=reason, next="check the spelling; for a private one run `hf auth login`",
        )
    return ForgeError(f"the base {name} cannot be fetched", why=f"{type(error).__name__}: {reason}", next="check the network, then forge resume")


def write_source(facts: KnownBase, folder: Path | None, target: Path, *, dry_run: bool) -> KnownBase:
    """Write base-source; returns the facts with which it was written (a rehearsal's base is tiny and random)."""
    target.mkdir(parents=True, exist_ok=True)
    if folder is not None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tiny = shrink(config)
        (target / "tiny").mkdir(exist_ok=True)
        write_json(target / "tiny" / "config.json", tiny)
        if dry_run:
            facts = facts.model_copy(update={"kind": "random", "parameters": count_parameters(tiny), "real_parameters": facts.parameters})
            write_json(target / "config.json", tiny)
        else:
            shutil.copyfile(folder / "config.json", target / "config.json")
        for file in (folder / name for name in LEGAL_FILES):
            if file.is_file():
                (target / "legal").mkdir(exist_ok=True)
                shutil.copyfile(file, target / "legal" / file.name)
        if facts.kind == "folder":
            for file in _weights(folder):
                _link(file, target / file.name)
    write_json(target / "base.json", facts)
    return facts


def shrink(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a tiny model of the same architecture, vocabulary and options."""
    per_layer = {key: None for key in ("layer_types",) if key in config}
    return {**config, **TINY, **per_layer, "max_window_layers": TINY["num_hidden_layers"]}


def count_parameters(config: Mapping[str, Any]) -> int:
    """Parameters of a model of one of ARCHITECTURES (compared with transformers in the tests)."""
    name, hidden, vocab = config["architectures"][0], int(config["hidden_size"]), int(config["vocab_size"])
    heads = int(config["num_attention_heads"])
    kv_heads, head = int(config.get("num_key_value_heads") or heads), int(config.get("head_dim") or hidden // heads)
    queries, keys = heads * head, kv_heads * head
    layer = 2 * hidden * queries + 2 * hidden * keys + 3 * hidden * int(config["intermediate_size"]) + 2 * hidden
    if name == "Qwen2ForCausalLM" or config.get("attention_bias"):
        layer += queries + 2 * keys + (0 if name == "Qwen2ForCausalLM" else hidden)
    if config.get("mlp_bias"):
        layer += 2 * int(config["intermediate_size"]) + hidden
    if name == "Qwen3ForCausalLM":
        layer += 2 * head
    head_rows = 1 if config.get("tie_word_embeddings", False) else 2
    return head_rows * vocab * hidden + int(config["num_hidden_layers"]) * layer + hidden


def _automatic(ctx: Context) -> str:
    """The largest permissive base of configs/models.yaml that this machine's GPU holds and the hub gives; else scratch."""
    memory = _gpu_memory(ctx)
    if not memory:
        ctx.notice("base: scratch, trained on the corpus itself; with a GPU here, shape.base=auto takes a pretrained one")
        return "scratch"
    for name, facts in sorted(load_data("models")["bases"].items(), key=lambda item: -item[1]["parameters"]):
        if facts["license"] not in ("apache-2.0", "mit") or facts["parameters"] * AUTO_BYTES_PER_PARAMETER > memory * GIB:
            continue
        try:
            fetch(name, SMALL_FILES)
        except ForgeError as error:
            ctx.notice(f"{name} would fit this GPU: {error.fact}")
            continue
        ctx.notice(f"base: {name}, the largest freely licensed one that fits {memory:g} GiB of GPU memory")
        return str(name)
    ctx.notice("base: scratch, since no pretrained base can be fetched; shape.base=FOLDER takes a local one")
    return "scratch"


def _gpu_memory(ctx: Context) -> float:
    """GiB of this machine's largest GPU; 0 without one."""
    if "local" not in ctx.names("provider"):
        return 0.0
    offers = ctx.use("provider", "local").quote(Need(parameters=1, memory_gib=0, gpu=False, seconds=0))
    return max((offer.gpu_memory_gib for offer in offers if offer.device == "cuda"), default=0.0)


def _known(folder: Path, kind: Any, name: str, revision: str, settings: ShapeSettings, ctx: Context) -> KnownBase:
    for needed in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        if not (folder / needed).is_file():
            raise ForgeError(
                f"the base {name} has no {needed}", why="a base is a folder as transformers saves it, with a fast tokenizer",
                next="save it again with save_pretrained(), or choose another shape.base",
            )
    if kind == "folder":
        _weights(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architecture = (config.get("architectures") or ["unknown"])[0]
    if architecture not in ARCHITECTURES:
        raise ForgeError(
            f"the base {name} is a {architecture}", why=f"merged, exported and checked are {', '.join(ARCHITECTURES)}",
            next="choose another shape.base",
        )
    parameters, license = count_parameters(config), _licence(folder, name, settings)
    if not license:
        ctx.notice(f"the base {name} names no licence: what is made from it cannot be published; shape.base_license=ID states it")
    return KnownBase(
        kind=kind, name=name, revision=revision, license=license, architecture=architecture, parameters=parameters,
        context=int(config.get("max_position_embeddings", 2048)),
    )


def _licence(folder: Path, name: str, settings: ShapeSettings) -> str:
    """What the user states, else configs/models.yaml, else the front matter of the model card."""
    known = load_data("models")["bases"].get(name, {}).get("license", "")
    if settings.base_license or known:
        return str(settings.base_license or known)
    card = folder / "README.md"
    if not card.is_file():
        return ""
    head = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    fields = dict(re.findall(r"^(license(?:_name)?):\s*[\"']?([\w.-]+)", head[1], re.MULTILINE)) if head else {}
    license = fields.get("license", "")
    return str(fields.get("license_name", license) if license == "other" else license)


def _weights(folder: Path) -> list[Path]:
    """The files that hold the weights of a local base. Raises ForgeError without safetensors."""
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise ForgeError(
            f"the base {folder.name} has no *.safetensors", why="weights in pickle files can run code, so they are not read",
            next="load it with transformers and save it with save_pretrained()",
        )
    return [*found, *sorted(folder.glob("*.safetensors.index.json")), *sorted(folder.glob("generation_config.json"))]


def _link(source: Path, target: Path) -> None:
    """The same file under another name where the file system can do that: a 7B base has 15 GB."""
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, target)
