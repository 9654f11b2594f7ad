"""What training leaves: the adapter without anything that differs from run to run, and the base that it was trained on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forge.phases.train.nf4 import restore_rounded
from forge.records import write_json


def save_adapter(model: Any, target: Path, weights: Mapping[str, Any] | None = None) -> None:
    """Write the adapter without the base's absolute path, the order of a set, and a README. weights: by name, of a split model."""
    model.save_pretrained(target, **({"state_dict": dict(weights)} if weights else {}))
    (target / "README.md").unlink(missing_ok=True)
    config = json.loads((target / "adapter_config.json").read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": "base", "target_modules": sorted(config["target_modules"])}
    write_json(target / "adapter_config.json", config)


def save_tuned(model: Any, tokenizer: Path, target: Path, weights: Mapping[str, Any]) -> None:
    """Write a model that was tuned whole, with the tokenizer's own files: a base of its own, in the adapter's place."""
    shutil.rmtree(target, ignore_errors=True)
    tied = model.config.tie_word_embeddings
    model.save_pretrained(target, state_dict={name: weight for name, weight in weights.items() if not (tied and name == "lm_head.weight")})
    for file in sorted(tokenizer.iterdir()):
        shutil.copyfile(file, target / file.name)


def save_rounded_base(model: Any, target: Path) -> None:
    """Replace the weights in `target` by those of the base that the adapter was trained on (nf4.py says why)."""
    for old in (*target.glob("*.safetensors"), *target.glob("*.safetensors.index.json")):
        old.unlink()
    base = model.unload()
    restore_rounded(base)
    base.save_pretrained(target)


def load_adapter(model: Any, folder: Path) -> None:
    """Put an adapter's trained weights into a model that has one of the same shape, whatever the two precisions are."""
    from peft import load_peft_weights, set_peft_model_state_dict

    told = set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
    assert not told.unexpected_keys, told.unexpected_keys
