#!/usr/bin/env python3
"""How fast phases/train trains an adapter, beside trl as people call it: the product's own functions, a 7B model of random weights.

    python bench/gpu_train.py --deadline 400                    the peers and ours on one GPU; each line as soon as it is measured
    python bench/gpu_train.py --only ours_fp8 ours_fp8_23gib     chosen ones          --list shows all
    python bench/train/several.py                                two GPUs against one
    python bench/gpu_train.py --no-table --qlora --sweep         4-bit base with merge check; rank sweep
    python bench/gpu_train.py --tiny --all                       everything in a minute on a CPU: proves that it runs, measures nothing

Examples: log-normal lengths of mean 150 tokens, two fifths of them prompt, which is not trained on; rank 32 on q, k, v, o.
real tok/s: tokens of examples, never padding, over wall time between two synchronizations. GiB: the largest allocation from the
first step on; with CUDA graphs, whose memory that does not count, the largest that torch holds. MFU: useful operations (frozen base: forward and activation gradient) over the bf16 product measured at the start.
Nothing is downloaded. JSON goes to $OUT/gpu_train.json after every line.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

BEGAN = time.time()
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_TELEMETRY": "1"}

SHAPES = {  # facts of public configurations
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064},
    "1.7b": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 151936},
    "tiny": {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512},
}
GIB = 1024**3


class Variant(NamedTuple):
    """ours: precision and memory limit in GiB; a peer: options of trl's SFTConfig. per_step: examples an optimizer step."""

    kind: str
    precision: str = "bf16"
    limit_gib: float = 0.0
    per_step: int = 108
    options: dict[str, Any] = {}  # noqa: RUF012 - a NamedTuple's default
    target: float = 0.0


VARIANTS = {
    "ours_bf16": Variant("ours", "bf16", per_step=160, target=20_000),
    "ours_fp8": Variant("ours", "fp8", per_step=160, target=28_000),
    "ours_bf16_22gib": Variant("ours", "bf16", 22.0, target=17_000),
    "ours_fp8_23gib": Variant("ours", "fp8", 23.0, target=24_000),
    "trl_packed_fast": Variant("trl", options={"per_device_train_batch_size": 4, "packing": True, "max_length": 2048, "gradient_checkpointing": False}),
    "trl_packed": Variant("trl", options={"per_device_train_batch_size": 1, "packing": True, "max_length": 2048}),
    "trl_default": Variant("trl", options={"per_device_train_batch_size": 8}),
    "source_way": Variant("source", options={"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}),
    "ours_nf4": Variant("ours", "nf4"),
}
STANDARD = ["ours_bf16", "ours_fp8", "ours_bf16_22gib", "ours_fp8_23gib", "trl_packed_fast", "trl_packed", "source_way"]


def main() -> None:
    """Run what was asked for, one after the other, until the deadline."""
    ask = _arguments()
    if ask.list:
        print("\n".join(f"{name:18s} {variant}" for name, variant in VARIANTS.items()))
        return
    bench = Bench(ask)
    bench.begin()
    chosen = ask.only or ([] if ask.no_table else STANDARD)
    for name in chosen:
        bench.measure(name)
    extra = [
        ("same_loss", bench.same_loss, not ask.only and bool(chosen)), ("qlora", bench.qlora, ask.qlora), ("sweep", bench.sweep, ask.sweep),
    ]
    for name, call, wanted in extra:
        if wanted or ask.all:
            bench.guarded(name, call)
    bench.end()


class Bench:
    """The model, the examples and the table."""

    def __init__(self, ask: argparse.Namespace) -> None:
        import torch
        from transformers.utils import logging

        logging.disable_progress_bar()
        quiet = __import__("logging")
        quiet.getLogger("trl").setLevel(quiet.ERROR)
        self.ask, self.cuda = ask, torch.cuda.is_available() and not ask.tiny
        self.device = "cuda" if self.cuda else "cpu"
        self.size = "tiny" if ask.tiny else ask.size
        self.warm, self.timed = (1, 2) if ask.tiny else (ask.warmup, ask.steps)
        self.examples, self.lengths = make_examples(SHAPES[self.size]["vocab_size"], 300 if ask.tiny else 6000)
        self.base: Any = None
        self.rows: list[dict[str, Any]] = []
        self.peak = 1e12
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))
        self.tokenizer = make_tokenizer()

    def begin(self) -> None:
        """Print where and on what, and measure the limit."""
        import peft
        import torch
        import transformers
        import trl

        from forge.phases.train.ways import measure_peak

        name = torch.cuda.get_device_name() if self.cuda else "cpu"
        self.peak = measure_peak() if self.cuda else 1e12
        self.say(
            f"# torch {torch.__version__} transformers {transformers.__version__} trl {trl.__version__} peft {peft.__version__} on {name};"
            f" bf16 product {self.peak / 1e12:.0f} TFLOP/s; {self.size} shape; mean example {statistics.mean(self.lengths):.0f} tokens"
        )
        self.say(f"{'variant':18s} {'real tok/s':>10s} {'ex/s':>7s} {'step ms':>8s} {'GiB':>6s} {'MFU %':>6s} {'loss':>8s}  way")

    def measure(self, name: str) -> None:
        """One line of the table."""
        self.guarded(name, lambda: self._line(name, VARIANTS[name]))

    def guarded(self, name: str, call: Any) -> None:
        """Run one part unless it is too late; a failure is a line, not the end."""
        if time.time() - BEGAN > self.ask.deadline:
            self.say(f"{name:18s} not run: past --deadline")
            self.note({"variant": name, "skipped": "deadline"})
            return
        started = time.time()
        try:
            call()
        except Exception as error:  # noqa: BLE001 - the other parts must still run
            told = traceback.format_exc().strip().splitlines()
            self.say(f"{name:18s} FAILED {type(error).__name__}: {str(error)[:300]} | {' | '.join(line.strip() for line in told[-7:-1])[:600]}")
            self.note({"variant": name, "error": f"{type(error).__name__}: {error}"[:1000]})
            self.drop_base()
        self.say(f"#   {name}: {time.time() - started:.0f} s, {time.time() - BEGAN:.0f} s since the start")

    def _line(self, name: str, variant: Variant) -> None:
        run = {"ours": self._ours, "trl": self._trl, "source": self._source}[variant.kind]
        found = run(variant)
        row = {"variant": name, **found, "target": variant.target, "reached": found["real_tok_s"] >= variant.target if variant.target else None}
        told = f"  target {variant.target:,.0f}: {'yes' if row['reached'] else 'NO'}" if variant.target else ""
        self.say(
            f"{name:18s} {row['real_tok_s']:10,.0f} {row['ex_s']:7.1f} {row['step_ms']:8.1f} {row['gib']:6.1f} {100 * row['mfu']:6.1f}"
            f" {row['loss']:8.4f}  {row['way']}{told}"
        )
        self.note(row)

    # ---- ours ---------------------------------------------------------------------------------------------------------

    def _ours(self, variant: Variant) -> dict[str, Any]:
        """phases/train from a loaded base on: choose the way, adapt, pack, try, train."""
        from forge.phases.train.packing import pack_steps
        from forge.phases.train.tuner import Numbers, adapt, first_that_fits, make_trainer, trial_step
        from forge.phases.train.ways import Machine, Way, choose_way, shape_of

        per_step, steps = 8 if self.ask.tiny else variant.per_step, self.warm + self.timed
        whole = pack_steps(self.lengths, steps, per_step, 0, 10**9)
        base = self.get_base()
        shape = shape_of(base.config, sum(weight.numel() for weight in base.parameters()), adapter_parameters(base.config, self.ask.rank))
        if self.cuda:
            import torch

            capability, free = torch.cuda.get_device_capability(), torch.cuda.mem_get_info()[0] + 2 * shape.parameters
            ways = choose_way(
                Machine("cuda", torch.cuda.get_device_name(), capability, free, True, self.peak), shape, asked=variant.precision,
                step_tokens=max(whole.tokens), longest=max(self.lengths), total_tokens=0.0, compile=True,
                limit_bytes=int(variant.limit_gib * GIB),
            )
        else:
            ways = [Way("cpu", variant.precision, self.ask.compile, 1500 if variant.limit_gib else 4000, 0, {})]  # type: ignore[arg-type]

        if self.ask.no_graphs:
            ways = [way._replace(graphed=False) for way in ways]

        def build(way: Way) -> Any:
            model = adapt(self.get_base(), lora(self.ask.rank), way, seed=0)
            packed = pack_steps(self.lengths, steps, per_step, 0, way.row_tokens)
            trainer = make_trainer(model, self.tokenizer, self.examples, packed, Numbers(steps, 1e-4, 0, 10**6, steps), way, self.folder / "ours", learning_rate_schedule="constant")
            fits = trial_step(trainer, packed, self.lengths, self.say)
            if not fits:
                self.drop_base()
            return (trainer, way, packed) if fits else None

        trainer, way, packed = first_that_fits(ways, build, self.say)
        self.reset_peak()
        seconds = self.clocked(trainer)
        found = self.row(sum(packed.tokens[self.warm :]), per_step * self.timed, seconds, trainer, per_step)
        twice = f"checkpointing 1/{way.checkpoint_every}" if way.checkpoint_every else "no checkpointing"
        if trainer.ready is not None and trainer.ready.padding is not None:
            found["gib"] = self.held_gib()
        found["way"] = f"{way.precision}, {packed.rows_per_step} rows of <= {way.row_tokens:,}, {twice}{', compiled' if way.compile else ''}{', CUDA graphs' if way.graphed else ''}"
        self.give_back(trainer, way)
        return found

    def give_back(self, trainer: Any, way: Any) -> None:
        """Keep the base for the next variant unless it was rounded."""
        from forge.phases.train.tuner import release

        model = trainer.accelerator.unwrap_model(trainer.model)
        rounded = way.precision in ("fp8", "nf4")
        trainer.optimizer = trainer.lr_scheduler = trainer.model = trainer.model_wrapped = None
        self.base = None if rounded else release(model)
        self.free()

    # ---- peers --------------------------------------------------------------------------------------------------------

    def _trl(self, variant: Variant) -> dict[str, Any]:
        """SFTTrainer with the options that people pass it."""
        import datasets
        from trl import SFTConfig, SFTTrainer

        datasets.disable_progress_bars()
        options = dict(variant.options)
        if self.ask.tiny and "max_length" in options:
            options["max_length"] = 512
        batch, steps = options["per_device_train_batch_size"], self.warm + self.timed
        wanted = steps * batch * (int(1.3 * options["max_length"] / 150) + 1 if options.get("packing") else 1) + 64
        arguments = SFTConfig(
            output_dir=str(self.folder / "trl"), max_steps=steps, learning_rate=1e-4, lr_scheduler_type="constant", report_to="none",
            logging_steps=steps, disable_tqdm=True, save_strategy="no", bf16=self.cuda, use_cpu=not self.cuda, seed=0, **options,
        )
        trainer = SFTTrainer(
            model=self.peer_base("torch_varlen" if options.get("packing") else "sdpa"), args=arguments, processing_class=self.tokenizer,
            train_dataset=self.dataset(wanted), peft_config=lora(self.ask.rank),
        )
        counted: list[int] = []
        self.reset_peak()
        seconds = self.clocked(trainer, lambda: counted.append(int(trainer._total_train_tokens)))
        tokens = counted[1] - counted[0]
        found = self.row(tokens, round(tokens / statistics.mean(self.lengths)), seconds, trainer, batch)
        found["way"] = ", ".join(f"{key}={value}" for key, value in variant.options.items())
        self.return_peer(trainer)
        return found

    def _source(self, variant: Variant) -> dict[str, Any]:
        """The published script: every row padded to 2,048, batches of 2 x 4, checkpointing, the whole row trained on, full logits."""
        import torch
        from transformers import Trainer, TrainingArguments

        seq, steps = 256 if self.ask.tiny else 2048, self.warm + min(self.timed, 3)
        kept = self.timed
        self.timed = steps - self.warm
        count = steps * 8
        rows = [self.examples[i % len(self.examples)].ids[:seq] for i in range(count)]
        padded = [
            {"input_ids": [*ids, *[0] * (seq - len(ids))], "attention_mask": [1] * len(ids) + [0] * (seq - len(ids)), "labels": [*ids, *[-100] * (seq - len(ids))]}
            for ids in rows
        ]
        from peft import get_peft_model

        model = get_peft_model(self.peer_base("sdpa"), lora(self.ask.rank, dropout=0.05))
        model.enable_input_require_grads()
        arguments = TrainingArguments(
            output_dir=str(self.folder / "source"), max_steps=steps, gradient_checkpointing=True, bf16=self.cuda, use_cpu=not self.cuda,
            learning_rate=1e-4, lr_scheduler_type="constant", report_to="none", logging_steps=steps, disable_tqdm=True, save_strategy="no",
            seed=0, **variant.options,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=padded, data_collator=lambda batch: {key: torch.tensor([row[key] for row in batch]) for key in batch[0]})
        self.reset_peak()
        seconds = self.clocked(trainer)
        tokens = sum(len(ids) for ids in rows[self.warm * 8 :])
        found = self.row(tokens, 8 * self.timed, seconds, trainer, 8)
        found["way"] = "padded to 2,048, 2 x 4, checkpointing"
        self.timed = kept
        self.return_peer(trainer)
        return found

    def peer_base(self, attention: str) -> Any:
        """The base as a peer gets it; the packed ones also get torch's varlen attention, as in the measurements of 2026-11-20."""
        from forge.phases.train.attention import register_varlen

        register_varlen()
        base = self.get_base()
        base.set_attn_implementation(attention)
        return base

    def return_peer(self, trainer: Any) -> None:
        """Take the adapter, the checkpointing and trl's forward off the base."""
        from forge.phases.train.tuner import release

        model = trainer.accelerator.unwrap_model(trainer.model)
        trainer.optimizer = trainer.lr_scheduler = trainer.model = trainer.model_wrapped = None
        self.base = release(model)
        for module in self.base.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = False
        self.free()

    def dataset(self, count: int) -> Any:
        """Examples one by one, as trl takes them."""
        import datasets

        from forge.phases.train.packing import labels_of

        some = [self.examples[i % len(self.examples)] for i in range(count)]
        return datasets.Dataset.from_dict({"input_ids": [list(one.ids) for one in some], "labels": [labels_of(one) for one in some]})

    # ---- the same loss ---------------------------------------------------------------------------------------------------

    def same_loss(self) -> None:
        """Plain trl (no packing, padded), ours in bf16 and ours in FP8 on the same examples in the same steps."""
        losses = {name: self._losses(name) for name in ("trl", "bf16", "fp8")}
        mean = {name: statistics.mean(values) for name, values in losses.items()}
        apart = {name: abs(mean[name] / mean["trl"] - 1) for name in ("bf16", "fp8")}
        told = ", ".join(f"{name} {value:.4f}" for name, value in mean.items())
        self.say(f"same loss: {told}; from trl: bf16 {100 * apart['bf16']:.3f} %, fp8 {100 * apart['fp8']:.3f} % (limit 0.5 %: {'yes' if max(apart.values()) < 0.005 else 'NO'})")
        self.note({"variant": "same_loss", "losses": losses, "apart": apart})

    def _losses(self, name: str, steps: int = 4, per_step: int = 16) -> list[float]:
        import datasets
        from trl import SFTConfig, SFTTrainer

        from forge.phases.train.order import rows_of_step
        from forge.phases.train.packing import labels_of, pack_steps
        from forge.phases.train.tuner import Numbers, adapt, make_trainer
        from forge.phases.train.ways import Way

        if name == "trl":
            order = [row for step in range(1, steps + 1) for row in rows_of_step(step, per_step, len(self.examples), 0)]
            rows = datasets.Dataset.from_dict({"input_ids": [list(self.examples[i].ids) for i in order], "labels": [labels_of(self.examples[i]) for i in order]})
            arguments = SFTConfig(
                output_dir=str(self.folder / "plain"), max_steps=steps, learning_rate=1e-4, lr_scheduler_type="constant", report_to="none",
                logging_steps=1, disable_tqdm=True, save_strategy="no", bf16=self.cuda, use_cpu=not self.cuda, seed=0, max_length=None,
                train_sampling_strategy="sequential", per_device_train_batch_size=4, gradient_accumulation_steps=per_step // 4,
            )
            trainer = SFTTrainer(model=self.peer_base("sdpa"), args=arguments, processing_class=self.tokenizer, train_dataset=rows, peft_config=lora(self.ask.rank))
            self.train(trainer)
            found = [line["loss"] for line in trainer.state.log_history if "loss" in line]
            self.return_peer(trainer)
            return found
        way = Way("cuda" if self.cuda else "cpu", name, self.cuda or self.ask.compile, 4000, 0, {})  # type: ignore[arg-type]
        packed = pack_steps(self.lengths, steps, per_step, 0, way.row_tokens)
        model = adapt(self.get_base(), lora(self.ask.rank), way, seed=0)
        trainer = make_trainer(model, self.tokenizer, self.examples, packed, Numbers(steps, 1e-4, 0, 10**6, 1), way, self.folder / name, learning_rate_schedule="constant")
        trainer.args.warmup_steps = 0
        self.train(trainer)
        found = [line["loss"] for line in trainer.state.log_history if "loss" in line]
        self.give_back(trainer, way)
        return found

    # ---- QLoRA, sweep --------------------------------------------------------------------------------

    def qlora(self) -> None:
        """Train on a 4-bit base; merge into the rounded weights (right) and into the original ones (the trap); compare both with base + adapter.

        Logits of a random bfloat16 model of 28 layers differ between two attention kernels already: that is the floor.
        """
        import torch

        from forge.phases.train.nf4 import restore_rounded
        from forge.phases.train.packing import pack_steps
        from forge.phases.train.tuner import Numbers, adapt, make_trainer
        from forge.phases.train.ways import Way

        steps = self.warm + self.timed
        way = Way("cuda" if self.cuda else "cpu", "nf4", self.cuda, 4000, 0, {})
        packed = pack_steps(self.lengths, steps, 26, 0, way.row_tokens)
        model = adapt(self.get_base(), lora(self.ask.rank), way, seed=0)
        trainer = make_trainer(model, self.tokenizer, self.examples, packed, Numbers(steps, 1e-3, 0, 10**6, steps), way, self.folder / "nf4", learning_rate_schedule="constant")
        self.reset_peak()
        seconds = self.clocked(trainer)
        found = self.row(sum(packed.tokens[self.warm :]), 26 * self.timed, seconds, trainer, 26)
        model = trainer.accelerator.unwrap_model(trainer.model)
        base = model.get_base_model()
        for layer in base.model.layers:
            layer._compiled_call_impl = None
        base.__dict__.pop("forward", None)
        ids = torch.tensor([list(self.examples[0].ids)], device=self.device)

        def logits(one: Any, attention: str) -> Any:
            (one.get_base_model() if hasattr(one, "get_base_model") else one).set_attn_implementation(attention)
            with torch.no_grad():
                return one(input_ids=ids).logits.float()

        tuned, floor = logits(model, "sdpa"), logits(model, "eager")
        model.save_pretrained(self.folder / "adapter")
        base = model.unload()
        restore_rounded(base)
        rounded = base.model.layers[0].self_attn.q_proj.weight.float().clone()
        apart = {"floor": distance(floor, tuned), "merged": distance(logits(self._merged(base), "sdpa"), tuned)}
        merged_weight = base.model.layers[0].self_attn.q_proj.weight.float()
        del base, model
        self.drop_base()
        original = self.get_base()
        first = original.model.layers[0].self_attn.q_proj
        delta = adapter_delta(self.folder / "adapter", "layers.0.self_attn.q_proj", 2.0).to(rounded)
        weights = {
            "merged": float((merged_weight - rounded - delta).norm() / delta.norm()),
            "into the original": float((first.weight.float() - rounded).norm() / delta.norm()), "delta": float(delta.norm() / rounded.norm()),
        }
        apart["into the original"] = distance(logits(self._merged(original), "sdpa"), tuned)
        right = apart["merged"] <= 2 * apart["floor"] and weights["merged"] < 0.5
        self.say(
            f"{'qlora':18s} {found['real_tok_s']:10,.0f} tok/s {found['gib']:6.1f} GiB; logits (rms over rms): merged into the rounded base {apart['merged']:.4f},"
            f" floor between two kernels {apart['floor']:.4f}, merged into the original {apart['into the original']:.4f}; weights of one matrix, error over the"
            f" adapter's change ({weights['delta']:.2%} of the norm): {weights['merged']:.3f} against {weights['into the original']:.2f}; bound 2 floors and 0.5: {'yes' if right else 'NO'}"
        )
        self.note({"variant": "qlora", **found, "logits": apart, "weights": weights})
        self.drop_base()

    def _merged(self, base: Any) -> Any:
        from peft import PeftModel

        return PeftModel.from_pretrained(base, self.folder / "adapter").merge_and_unload(safe_merge=True)

    def sweep(self) -> None:
        """Eight ranks over one frozen base at once against one after the other (bench/train/sweep.py)."""
        from bench.train.sweep import measure_sweep

        self.drop_base()
        shape = SHAPES["tiny" if self.ask.tiny else "1.7b"]
        self.note({"variant": "sweep", **measure_sweep(device="cuda" if self.cuda else "cpu", size=shape, say=self.say, steps=self.ask.sweep_steps)})

    # ---- tools ------------------------------------------------------------------------------------------------------------

    def get_base(self) -> Any:
        """The 7B model with random weights, made on the device."""
        if self.base is None:
            started = time.time()
            self.free()
            self.base = make_base(SHAPES[self.size], self.device)
            self.say(f"#   weights made in {time.time() - started:.1f} s")
        return self.base

    def drop_base(self) -> None:
        """Forget the base and everything that hangs on it."""
        self.base = None
        self.free()

    def clocked(self, trainer: Any, mark: Any = None, warm: int | None = None) -> float:
        """Train; seconds from the end of the warm-up steps to the end of the last step."""
        from transformers import TrainerCallback

        times: list[float] = []
        first = self.warm if warm is None else warm
        bench = self

        class Clock(TrainerCallback):  # type: ignore[misc, unused-ignore]
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if state.global_step in (first, state.max_steps):
                    bench.sync()
                    times.append(time.perf_counter())
                    if mark is not None:
                        mark()

        trainer.args.save_strategy = "no"  # a Trainer saves at the end, which is not what is measured
        trainer.add_callback(Clock())
        self.train(trainer)
        return times[-1] - times[0]

    def train(self, trainer: Any) -> None:
        """trainer.train() without its printing."""
        from forge.phases.train.tuner import train_on

        train_on(trainer, None, None)

    def row(self, tokens: int, examples: int, seconds: float, trainer: Any, per_step: int) -> dict[str, Any]:
        """The figures of one line."""
        import torch

        config = trainer.accelerator.unwrap_model(trainer.model).config
        rate = tokens / seconds
        loss = next((line["loss"] for line in reversed(trainer.state.log_history) if "loss" in line), trainer.state.log_history[-1].get("train_loss", math.nan))
        return {
            "real_tok_s": rate, "ex_s": examples / seconds, "step_ms": 1e3 * seconds / self.timed, "tokens": tokens, "per_step": per_step,
            "gib": torch.cuda.max_memory_allocated() / GIB if self.cuda else 0.0, "mfu": rate * flops_per_token(config, self.ask.rank) / self.peak, "loss": float(loss),
        }

    def sync(self) -> None:
        """Wait for the GPU."""
        import torch

        if self.cuda:
            torch.cuda.synchronize()

    def reset_peak(self) -> None:
        """Count memory from here."""
        import torch

        if self.cuda:
            torch.cuda.reset_peak_memory_stats()

    def held_gib(self) -> float:
        """The most that torch has held of the GPU since reset_peak()."""
        import torch

        return torch.cuda.max_memory_reserved() / GIB if self.cuda else 0.0

    def free(self) -> None:
        """Give memory back."""
        import torch

        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def say(self, text: str) -> None:
        """Print at once."""
        print(text, flush=True)

    def note(self, row: dict[str, Any]) -> None:
        """Keep a result, on disk too."""
        self.rows.append(row)
        out = Path(os.environ.get("OUT", self.folder)) / "gpu_train.json"
        out.write_text(json.dumps({"peak_flops": self.peak, "rows": self.rows}, indent=1, default=str))

    def end(self) -> None:
        """How long it took."""
        self.say(f"# {time.time() - BEGAN:.0f} s in all")


def make_base(shape: dict[str, int], device: str) -> Any:
    """A Qwen2 model with random bfloat16 weights, made where it is used."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        max_position_embeddings=32768, rms_norm_eps=1e-6, tie_word_embeddings=False, use_cache=False, bos_token_id=None, eos_token_id=2, pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, **shape,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    with torch.no_grad():
        for weight in model.parameters():
            weight.data = weight.data.to(torch.bfloat16)
            if weight.ndim > 1:
                weight.normal_(0, 0.02)
            weight.requires_grad_(False)
    return model


def make_examples(vocab: int, count: int) -> tuple[list[Any], list[int]]:
    """Random tokens in log-normal lengths of mean 150; two fifths are the prompt."""
    import numpy as np

    from forge.phases.train.packing import Encoded

    rng, sigma = random.Random(0), 0.45
    mu = math.log(150) - sigma**2 / 2
    lengths = [max(24, min(2048, int(rng.lognormvariate(mu, sigma)))) for _ in range(count)]
    numbers = np.random.default_rng(1)
    return [Encoded(tuple(numbers.integers(3, vocab, size).tolist()), int(size * 0.4)) for size in lengths], lengths


def make_tokenizer() -> Any:
    """As little of a tokenizer as a trainer asks for."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "<eos>": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def lora(rank: int, dropout: float = 0.0) -> Any:
    """The adapter of the source run."""
    from peft import LoraConfig

    return LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, lora_dropout=dropout, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], bias="none")


def adapter_parameters(config: Any, rank: int) -> int:
    """Parameters of that adapter."""
    hidden, keys = config.hidden_size, config.hidden_size // config.num_attention_heads * config.num_key_value_heads
    return int(config.num_hidden_layers * rank * (4 * hidden + 2 * (hidden + keys)))


def distance(got: Any, wanted: Any) -> float:
    """Root mean square of the difference over that of the wanted values."""
    return float((got - wanted).norm() / wanted.norm())


def adapter_delta(folder: Path, module: str, scale: float) -> Any:
    """scale * B @ A of one module of a saved adapter, float32."""
    from safetensors.torch import load_file

    weights = load_file(folder / "adapter_model.safetensors")
    first, second = (next(value for name, value in weights.items() if f"{module}.lora_{part}" in name).float() for part in "AB")
    return scale * (second @ first)


def flops_per_token(config: Any, rank: int) -> float:
    """Forward and activation gradient at length 150; the head on the answers' 60 %."""
    hidden, keys, layers = config.hidden_size, config.hidden_size // config.num_attention_heads * config.num_key_value_heads, config.num_hidden_layers
    block = layers * (2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * config.intermediate_size)
    mean_square = 150 * math.exp(0.45**2)
    return 4 * block + 6 * adapter_parameters(config, rank) + 4 * 0.6 * hidden * config.vocab_size + 6 * layers * mean_square * hidden


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], choices=list(VARIANTS), help="these variants")
    parser.add_argument("--size", default="7b", choices=list(SHAPES))
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8, help="timed optimizer steps")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--deadline", type=float, default=400.0, help="seconds after which nothing new is started")
    parser.add_argument("--sweep-steps", type=int, default=0, help="optimizer steps of the rank sweep; 0: all 93")
    for flag in ("list", "all", "no-table", "no-graphs", "tiny", "compile", "qlora", "sweep"):
        parser.add_argument(f"--{flag}", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
