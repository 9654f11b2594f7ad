#!/usr/bin/env python3
"""Does an adapter trained on an FP8 base equal one trained on the bfloat16 base? Three seeds, real text, through phases/train.

    python bench/train/fp8_seeds.py --seeds 2                     a 410 M model; 4.5 minutes on an H200
    python bench/train/fp8_seeds.py --first 2 --seeds 1           the third seed; 3 minutes
    python bench/train/fp8_seeds.py --shape tiny --device cpu     does it run? a minute on a CPU

A base is pretrained for 45 seconds on Python's own library (on every machine, nothing is downloaded), then tuned on this repository's
prose: the same start, rows and rates in both precisions, for each seed. Printed: validation loss (nats per answer token) over the
steps, and of the FP8-trained adapter put on the bfloat16 base. Holds when every seed's last losses are within 0.5 % of each other.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import statistics
import sys
import sysconfig
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

BEGAN = time.time()
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_TELEMETRY": "1"}
BOUND = 0.005
SHAPES = {
    "450m": {"hidden_size": 1280, "intermediate_size": 3584, "num_hidden_layers": 22, "num_attention_heads": 10, "num_key_value_heads": 2, "vocab_size": 16384},
    "tiny": {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512},
}
EXAMPLE_TOKENS, PROMPT_TOKENS = 192, 64


def main() -> None:
    """Pretrain, tune in both precisions for every seed, compare."""
    import torch

    ask = _arguments()
    warnings.simplefilter("ignore")
    quiet = __import__("logging")
    quiet.getLogger("trl").setLevel(quiet.ERROR)
    __import__("transformers").utils.logging.disable_progress_bar()
    torch.set_float32_matmul_precision("high")
    learnt, tuned = _texts()
    tokenizer = _tokenizer(learnt[: 2_000_000 if ask.device == "cuda" else 200_000], SHAPES[ask.shape]["vocab_size"])
    pretraining, examples = _tokens(learnt if ask.device == "cuda" else learnt[:300_000], tokenizer), _examples(tuned, tokenizer)
    held_out, train = examples[:: len(examples) // 60][:60], [one for number, one in enumerate(examples) if number % (len(examples) // 60)]
    print(f"# {len(pretraining):,} tokens to pretrain on, {len(train)} examples of {EXAMPLE_TOKENS} tokens to tune on, {len(held_out)} held out; {time.time() - BEGAN:.0f} s", flush=True)
    weights = _pretrain(ask, pretraining)
    found: dict[str, Any] = {}
    for seed in range(ask.first, ask.first + ask.seeds):
        if time.time() - BEGAN > ask.deadline:
            print(f"seed {seed} not run: past --deadline {ask.deadline:.0f} s", flush=True)
            break
        curves = {}
        for precision in ("bf16", "fp8"):
            curves[precision], adapter = _tune(ask, precision, seed, weights, tokenizer, train, held_out)
        on_plain = _tune(ask, "bf16", seed, weights, tokenizer, train, held_out, adapter=adapter)[0]
        bf16, fp8 = curves["bf16"][-1], curves["fp8"][-1]
        found[str(seed)] = {**curves, "apart": fp8 / bf16 - 1, "adapter_on_bf16": on_plain[-1]}
        print(f"seed {seed}  bf16 {_told(curves['bf16'])}\n        fp8  {_told(curves['fp8'])}  apart {100 * (fp8 / bf16 - 1):+.3f} %; its adapter on the bf16 base {on_plain[-1]:.4f}; {time.time() - BEGAN:.0f} s", flush=True)
    apart = [abs(one["apart"]) for one in found.values()]
    if apart:
        print(f"{len(apart)} seeds: {100 * statistics.mean(apart):.3f} % apart on average, {100 * max(apart):.3f} % at most (bound {100 * BOUND} %: {'yes' if max(apart) <= BOUND and len(apart) == ask.seeds else 'NO'})", flush=True)
    if "OUT" in os.environ:
        (Path(os.environ["OUT"]) / "fp8_seeds.json").write_text(json.dumps(found, indent=1))
    print(f"# {time.time() - BEGAN:.0f} s in all", flush=True)


def _texts() -> tuple[str, str]:
    """Python's library, and this repository's Markdown and docstrings."""
    library = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(file for file in library.rglob("*.py") if not {"site-packages", "test", "tests"} & set(file.parts))
    learnt = "\n\n".join(file.read_text(encoding="utf-8", errors="ignore") for file in files)
    own = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("phases/*/SKILL.md")), *sorted(ROOT.glob("examples/**/*.md")), *sorted(ROOT.glob("phases/*/*.py")), *sorted(ROOT.glob("forge/*.py"))]
    return learnt, "\n\n".join(file.read_text(encoding="utf-8", errors="ignore") for file in own)


def _tokenizer(text: str, vocabulary: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.BPE())
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    words.train_from_iterator(
        (text[at : at + 10_000] for at in range(0, len(text), 10_000)),
        trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=["<pad>", "<eos>"], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")


def _tokens(text: str, tokenizer: Any) -> Any:
    import torch

    parts = tokenizer([text[at : at + 50_000] for at in range(0, len(text), 50_000)], add_special_tokens=False)["input_ids"]
    return torch.tensor([token for part in parts for token in part], dtype=torch.long)


def _examples(text: str, tokenizer: Any) -> list[Any]:
    from forge.phases.train.packing import Encoded

    ids = _tokens(text, tokenizer).tolist()
    return [Encoded((*ids[at : at + EXAMPLE_TOKENS - 1], tokenizer.eos_token_id), PROMPT_TOKENS) for at in range(0, len(ids) - EXAMPLE_TOKENS, EXAMPLE_TOKENS - 1)]


def _model(ask: argparse.Namespace, dtype: Any) -> Any:
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(max_position_embeddings=2048, tie_word_embeddings=True, use_cache=False, bos_token_id=None, eos_token_id=1, pad_token_id=0, **SHAPES[ask.shape])
    return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa").to(ask.device)


def _pretrain(ask: argparse.Namespace, tokens: Any) -> dict[str, Any]:
    """The weights of a base that knows some Python, in bfloat16."""
    import torch

    torch.manual_seed(0)
    model, cuda = _model(ask, torch.float32), ask.device == "cuda"
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=cuda)
    if cuda:
        for layer in model.model.layers:
            layer.compile()
    chance, began, step = torch.Generator().manual_seed(1), time.time(), 0
    rows, length = (24, 1024) if cuda else (4, 128)
    while (share := (time.time() - began) / ask.pretrain) < 1 or step < 8:
        for group in optimizer.param_groups:
            group["lr"] = 6e-4 * min(1, (step + 1) / 60) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1, share))))
        picked = torch.randint(0, len(tokens) - length - 1, (rows,), generator=chance)
        batch = torch.stack([tokens[at : at + length] for at in picked]).to(ask.device)
        with torch.autocast(ask.device, torch.bfloat16):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % 50 == 0 and cuda:
            torch.cuda.synchronize()  # so that the time counts work that is done
    print(f"# pretrained {sum(weight.numel() for weight in model.parameters()) / 1e6:.0f} M parameters for {step} steps, loss {loss.item():.3f}; {time.time() - BEGAN:.0f} s", flush=True)
    kept = {name: value.to(torch.bfloat16).clone() for name, value in model.state_dict().items()}
    del model, optimizer
    gc.collect()
    return kept


def _tune(
    ask: argparse.Namespace, precision: str, seed: int, weights: dict[str, Any], tokenizer: Any, train: list[Any], held_out: list[Any], adapter: dict[str, Any] | None = None
) -> tuple[list[float], dict[str, Any]]:
    """Validation losses over the steps, and the adapter; with `adapter`: only its loss on this base."""
    import torch
    from peft import LoraConfig
    from transformers.trainer_callback import PrinterCallback

    from forge.phases.train.packing import pack_steps
    from forge.phases.train.tuner import Numbers, adapt, make_trainer, train_on, trial_step
    from forge.phases.train.ways import Way

    torch._dynamo.reset()
    compiled = ask.device == "cuda" and adapter is None  # one evaluation is not worth it
    way = Way(ask.device, precision, compiled, 4096 if ask.device == "cuda" else 800, 0, {})  # type: ignore[arg-type]
    base = _model(ask, torch.bfloat16)
    base.load_state_dict(weights)
    base.requires_grad_(False)
    config = LoraConfig(task_type="CAUSAL_LM", r=32, lora_alpha=64, lora_dropout=0.0, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    model = adapt(base, config, way, seed=seed)
    lengths = [len(one.ids) for one in train]
    packed = pack_steps(lengths, ask.steps, ask.per_step, seed, way.row_tokens)
    with tempfile.TemporaryDirectory(prefix="fp8-") as folder:
        trainer = make_trainer(model, tokenizer, train, packed, Numbers(ask.steps, 3e-4, seed, 10**6, ask.steps), way, Path(folder), validation=held_out)
        trainer.args.save_strategy = "no"
        trainer.remove_callback(PrinterCallback)
        if adapter is not None:
            told = model.load_state_dict(adapter, strict=False)
            assert not told.unexpected_keys
            losses = [float(trainer.evaluate()["eval_loss"])]
        else:
            trial_step(trainer, packed, lengths)
            losses = [float(trainer.evaluate()["eval_loss"])]
            train_on(trainer, None, None)
            losses += [float(line["eval_loss"]) for line in trainer.state.log_history if "eval_loss" in line and line["step"]]
    kept = {name: value.detach().clone() for name, value in model.state_dict().items() if "lora_" in name}
    trainer.model = trainer.model_wrapped = trainer.optimizer = None
    del model, base, trainer
    gc.collect()
    if ask.device == "cuda":
        torch.cuda.empty_cache()
    return losses, kept


def _told(curve: list[float]) -> str:
    return " ".join(f"{loss:.4f}" for loss in curve)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="450m", choices=list(SHAPES))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed: three take 6 minutes on an H200, so make them in two calls")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--per-step", type=int, default=40, help="examples an optimizer step")
    parser.add_argument("--pretrain", type=float, default=45.0, help="seconds of pretraining")
    parser.add_argument("--deadline", type=float, default=240.0, help="seconds after which no seed is begun")
    return parser.parse_args()


if __name__ == "__main__":
    main()
