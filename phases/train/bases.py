"""The base that is tuned, as the artifact base_model: fetched, linked or made, with the tokenizer that shape checked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from forge.errors import ForgeError, MissingAccess
from forge.phase import Context
from forge.records import KnownBase, Plan, read_record

WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json")


def read_base(ctx: Context) -> KnownBase:
    """What shape found out about the base."""
    return read_record(ctx.input("base_source") / "base.json", KnownBase)


def prepare_base(plan: Plan, ctx: Context, known: KnownBase) -> Path:
    """Write the artifact base_model of a base that is not trained here. Raises ForgeError when the weights cannot be had."""
    source, target = ctx.input("base_source"), ctx.output("base_model")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    if known.kind == "random":
        _make_random(source, target, plan.seed)
    else:
        folder = source if known.kind == "folder" else fetch_weights(known)
        for pattern in WEIGHTS:
            for file in sorted(folder.glob(pattern)):
                link(file, target / file.name)
    for file in sorted(ctx.input("tokenizer").iterdir()):
        shutil.copyfile(file, target / file.name)
    return target


def fetch_weights(known: KnownBase) -> Path:
    """The snapshot of a hub model at the commit that the plan names. Raises MissingAccess or ForgeError with what to do."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(known.name, revision=known.revision, allow_patterns=list(WEIGHTS)))
    except GatedRepoError as error:
        raise MissingAccess(
            f"the weights of {known.name} are behind a licence", why=" ".join(str(error).split())[:300],
            next=f"accept it at https://huggingface.co/{known.name} and run `hf auth login` on the machine that trains, then forge resume",
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ForgeError(
            f"the weights of {known.name} cannot be fetched", why=" ".join(str(error).split())[:300],
            next=f"hf download {known.name} --revision {known.revision} on the machine that trains, then forge resume",
        ) from None


def link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where that is impossible."""
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, target)


def load_base(folder: Path, dtype: str, device: str) -> Any:
    """The causal language model in `folder` on the device."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True).to(device)


def _make_random(source: Path, target: Path, seed: int) -> None:
    """A tiny model with random weights, for rehearsals."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(source)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(target)
