#!/usr/bin/env python3
"""Several GPUs against one, through phases/train: copies of the base (DDP), or the base split over them (FSDP2).

    python bench/train/several.py                      one GPU, two with copies: the same examples a step; says whether 1.85 times is reached
    python bench/train/several.py --how fsdp           the base split over two, as it is and compiled
    python bench/train/several.py --how one --precision fp8 --limit-gib 23 --per-step 108      one GPU as if it had no more
    python bench/train/several.py --shape tiny --device cpu            does it run? a minute on a CPU (gloo), no measurement

Every line has where a step's time went, of the slowest process: `pass` forward and backward, `meet` averaging gradients with the wait for
the others, `adam` the optimizer (all by the GPU's clock), `host` the time that the processor took to ask for it all, `data` making batches.
`apart` is the time of steps in which nobody waits for the others' gradients. When copies are slow: `meet` long and `apart` short is the
link; `apart` long too is the processor (host near the step) or the rows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BEGAN = time.time()
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_TELEMETRY": "1"}
GIB = 1024**3
GOAL = 1.85


def main() -> None:
    """Run each line in processes of its own and print the table."""
    ask = _arguments()
    if ask.worker:
        _work(ask)
        return
    print(f"# {ask.shape} shape, {ask.per_step} examples a step in all, {ask.precision} base, rank 32; {ask.steps} timed steps", flush=True)
    print(f"{'line':16s} {'tok/s':>8s} {'step ms':>8s} {'pass':>7s} {'meet':>6s} {'adam':>6s} {'host':>7s} {'data':>6s} {'apart':>7s} {'GiB':>6s} {'loss':>8s}  rows", flush=True)
    lines = {
        "one": [("one", 1, "one", True)],
        "ddp": [("one", 1, "one", True), (f"{ask.gpus} copies", ask.gpus, "ddp", True)],
        "fsdp": [(f"{ask.gpus} shards", ask.gpus, "fsdp", False), (f"{ask.gpus} shards, comp.", ask.gpus, "fsdp", True)],
    }[ask.how]
    found = {}
    for name, count, how, compiled in lines:
        if time.time() - BEGAN > ask.deadline:
            print(f"{name:16s} not run: past --deadline {ask.deadline:.0f} s", flush=True)
            continue
        found[name] = _line(ask, name, count, how, compiled)
    rates = [one["tokens_per_second"] for one in found.values() if one]
    if ask.limit_gib:
        print(f"limit {ask.limit_gib:g} GiB: {'kept' if all(one and one['gib'] <= ask.limit_gib for one in found.values()) else 'NOT kept'}", flush=True)
    if ask.how == "ddp" and len(rates) == 2:
        print(f"{ask.gpus} GPUs are {rates[1] / rates[0]:.2f} times one (goal {GOAL}: {'yes' if rates[1] / rates[0] >= GOAL else 'NO'})", flush=True)
    if "OUT" in os.environ:
        (Path(os.environ["OUT"]) / f"several-{ask.how}.json").write_text(json.dumps(found, indent=1))
    print(f"# {time.time() - BEGAN:.0f} s in all", flush=True)


def _line(ask: argparse.Namespace, name: str, count: int, how: str, compiled: bool) -> dict[str, Any] | None:
    """Measure one line; a failure is told and does not end the others."""
    folder = Path(tempfile.mkdtemp(prefix="several-"))
    own = [__file__, "--worker", str(folder), "--how", how, "--shape", ask.shape, "--device", ask.device, "--steps", str(ask.steps), "--warmup", str(ask.warmup),
           "--per-step", str(ask.per_step), "--precision", ask.precision, "--limit-gib", str(ask.limit_gib), "--copies", str(ask.copies), *(["--compile"] if compiled and (ask.device == "cuda" or ask.compile) else [])]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count > 1 else []
    began = time.time()
    environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]} if count == 1 else {})}
    try:
        done = subprocess.run([sys.executable, *launcher, *own], capture_output=True, text=True, timeout=ask.limit, check=False, env=environment)
    except subprocess.TimeoutExpired as error:
        print(f"{name:16s} FAILED: not done after {ask.limit:.0f} s; last words: {str(error.stderr)[-600:]}", flush=True)
        return None
    ranks = [json.loads(file.read_text()) for file in sorted(folder.glob("rank-*.json"))]
    if done.returncode or len(ranks) != count:
        told = [line for line in done.stderr.splitlines() if "Error" in line or "File" in line]
        print(f"{name:16s} FAILED with {done.returncode}: {' | '.join(told[-12:])[-1500:] or done.stderr[-800:]}", flush=True)
        return None
    first: dict[str, Any] = ranks[0]
    slowest = max(ranks, key=lambda one: one["pass_ms"])
    print(
        f"{name:16s} {first['tokens_per_second']:8,.0f} {first['step_ms']:8.0f} {slowest['pass_ms']:7.0f} {slowest['meet_ms']:6.1f} {slowest['adam_ms']:6.1f}"
        f" {slowest['host_ms']:7.0f} {slowest['data_ms']:6.1f} {slowest['apart_ms']:7.0f} {max(one['gib'] for one in ranks):6.1f} {first['loss']:8.4f}"
        f"  {first['way']}; {time.time() - began:.0f} s in all", flush=True,
    )
    if count > 1:
        each = "; ".join(f"rank {one['rank']}: steps {one['steps_ms']}" for one in ranks)
        print(f"#   {first['link']}; {each}", flush=True)
    return first


def _work(ask: argparse.Namespace) -> None:
    """One process: train, and leave its figures in the folder."""
    import torch

    from bench.gpu_train import SHAPES, make_base, make_examples, make_tokenizer
    from forge.phases.train.distributed import join, leave, local_rank, processes, rank
    from forge.phases.train.packing import pack_steps
    from forge.phases.train.shards import split_model
    from forge.phases.train.tuner import Numbers, adapt, first_that_fits, make_trainer, train_on, trial_step

    quiet = __import__("logging")
    quiet.getLogger("trl").setLevel(quiet.ERROR)
    __import__("transformers").utils.logging.disable_progress_bar()
    join(ask.device)
    device = f"cuda:{local_rank()}" if ask.device == "cuda" else "cpu"
    if ask.device == "cpu":
        torch.set_num_threads(1)
    link = _link(ask.device)
    examples, lengths = make_examples(SHAPES[ask.shape]["vocab_size"], 6000 if ask.device == "cuda" else 300)
    total = ask.warmup + ask.steps + ask.apart
    ways = _ways(ask, lengths, total)

    def build(way: Any) -> Any:
        base = make_base(SHAPES[ask.shape], device)
        model = adapt(base if way.precision != "fp32" else base.float(), _adapter(), way, seed=0)
        model = split_model(model, ask.device) if way.shards > 1 else model
        packed = pack_steps(lengths, total, ask.per_step, 0, way.row_tokens, multiple=processes())
        trainer = make_trainer(model, make_tokenizer(), examples, packed, Numbers(total, 1e-4, 0, 10**6, total), way, Path(ask.worker) / "trainer", learning_rate_schedule="constant")
        return (trainer, way, packed) if trial_step(trainer, packed, lengths) else None

    trainer, way, packed = first_that_fits(ways, build, lambda text: print(text, file=sys.stderr))
    trainer.args.save_strategy = "no"
    clock = Clock(trainer, ask)
    if ask.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    train_on(trainer, clock.callback(), None)
    tokens = sum(packed.tokens[ask.warmup : ask.warmup + ask.steps])
    figures = clock.figures()
    held = torch.cuda.max_memory_reserved if way.graphed else torch.cuda.max_memory_allocated  # recordings are not counted as allocated
    figures |= {
        "rank": rank(), "tokens_per_second": tokens / figures.pop("seconds"), "gib": held() / GIB if ask.device == "cuda" else 0.0,
        "loss": next(line["loss"] for line in reversed(trainer.state.log_history) if "loss" in line), "link": link,
        "way": f"{packed.rows_per_step} of <= {way.row_tokens:,}, checkpointing {way.checkpoint_every}{', compiled' if way.compile else ''}{', one copy' if way.one_copy else ''}{', CUDA graphs' if way.graphed else ''}",
    }
    (Path(ask.worker) / f"rank-{rank()}.json").write_text(json.dumps(figures))
    leave()


def _ways(ask: argparse.Namespace, lengths: list[int], total: int) -> list[Any]:
    """As a run would choose them for a GPU of this kind, or one for the split base."""
    import torch
    from transformers import Qwen2Config

    from bench.gpu_train import SHAPES, adapter_parameters
    from forge.phases.train.distributed import processes
    from forge.phases.train.distributed import told as told_by_all
    from forge.phases.train.packing import pack_steps
    from forge.phases.train.ways import Machine, Way, choose_way, measure_peak, shape_of

    if ask.device == "cpu":
        return [Way("cpu", ask.precision, ask.compile, 700, 0, {}, processes() if ask.how == "fsdp" else 1, one_copy=ask.copies == 1)]
    whole = pack_steps(lengths, total, ask.per_step, 0, 10**9)
    each = int(1.02 * max(whole.tokens) / processes()) if processes() > 1 else max(whole.tokens)
    if ask.how == "fsdp":
        return [Way("cuda", "bf16", ask.compile, size, 0, {}, processes()) for size in (min(each, 13000), 6000)]
    config = Qwen2Config(tie_word_embeddings=False, **SHAPES[ask.shape])
    size = 7_615_616_512 if ask.shape == "7b" else sum(SHAPES[ask.shape].values()) * 1000
    peak = float(min(told_by_all(int(measure_peak())))) if ask.limit_gib else 0.0  # the way has to be the same for all
    machine = Machine("cuda", torch.cuda.get_device_name(), torch.cuda.get_device_capability(), torch.cuda.mem_get_info()[0], True, peak)
    found = choose_way(
        machine, shape_of(config, size, adapter_parameters(config, 32)), asked=ask.precision, step_tokens=each, longest=max(lengths), total_tokens=0.0, compile=True,
        limit_bytes=int(ask.limit_gib * GIB),
    )
    return [way for way in found if not ask.copies or way.one_copy == (ask.copies == 1)] or found


def _adapter() -> Any:
    from bench.gpu_train import lora

    return lora(32)


def _link(device: str) -> str:
    """How fast 20 M gradients in float32 meet, and whether the GPUs reach each other directly."""
    import torch

    from forge.phases.train.distributed import processes

    if processes() == 1:
        return "alone"
    values = torch.ones(20_185_088 if device == "cuda" else 10_000, device=device)
    for _ in range(3):
        torch.distributed.all_reduce(values)
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(10):
        torch.distributed.all_reduce(values)
    if device == "cuda":
        torch.cuda.synchronize()
    each = (time.perf_counter() - began) / 10
    peer = torch.cuda.can_device_access_peer(0, 1) if device == "cuda" and torch.cuda.device_count() > 1 else "-"
    return f"{values.numel() / 1e6:.1f} M gradients meet in {1e3 * each:.2f} ms, direct access {peer}, NCCL {torch.cuda.nccl.version() if device == 'cuda' else '-'}"


class Clock:
    """Times of the parts of every step. The GPU's by its own events, read after the last step: nothing waits."""

    def __init__(self, trainer: Any, ask: argparse.Namespace) -> None:
        tuner: Any = __import__("importlib").import_module("forge.phases.train.tuner")
        self.trainer, self.ask, self.cuda = trainer, ask, ask.device == "cuda"
        self.spans: dict[str, list[tuple[int, Any, Any]]] = {"pass": [], "meet": [], "adam": []}
        self.host: list[tuple[int, float]] = []
        self.data: list[tuple[int, float]] = []
        self.ends: list[float] = []
        self.meets = trainer.shared
        tuner.share_gradients = self.spanned("meet", tuner.share_gradients)
        trainer.optimizer.step = self.spanned("adam", trainer.optimizer.step)
        trainer.compute_loss = self.begun(trainer.compute_loss)
        trainer.accelerator.backward = self.ended(trainer.accelerator.backward)
        trainer.training_step = self.hosted(self.host, trainer.training_step)
        trainer.get_batch_samples = self.hosted(self.data, trainer.get_batch_samples)

    def now(self) -> Any:
        """A point on the GPU's clock, or on the processor's."""
        import torch

        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def spanned(self, name: str, call: Any) -> Any:
        """The call with its beginning and end noted."""
        def timed(*args: Any, **more: Any) -> Any:
            began = self.now()
            made = call(*args, **more)
            self.spans[name].append((self.trainer.state.global_step, began, self.now()))
            return made

        timed.__self__ = self.trainer.optimizer  # type: ignore[attr-defined]  # a scheduler looks at it
        timed.__func__ = call.__func__ if hasattr(call, "__func__") else call  # type: ignore[attr-defined]
        return timed

    def begun(self, call: Any) -> Any:
        """A pass begins."""
        def timed(*args: Any, **more: Any) -> Any:
            self.began = self.now()
            return call(*args, **more)

        return timed

    def ended(self, call: Any) -> Any:
        """A pass ends."""
        def timed(*args: Any, **more: Any) -> Any:
            made = call(*args, **more)
            self.spans["pass"].append((self.trainer.state.global_step, self.began, self.now()))
            return made

        return timed

    def hosted(self, where: list[tuple[int, float]], call: Any) -> Any:
        """The processor's time of a call."""
        def timed(*args: Any, **more: Any) -> Any:
            began, step = time.perf_counter(), self.trainer.state.global_step
            made = call(*args, **more)
            where.append((step, time.perf_counter() - began))
            return made

        return timed

    def callback(self) -> Any:
        """Notes the end of the warm-up, of the timed steps and of those apart; a wait at these three only."""
        import torch
        from transformers import TrainerCallback

        clock, ask = self, self.ask

        class Ends(TrainerCallback):  # type: ignore[misc, unused-ignore]
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if state.global_step in (ask.warmup, ask.warmup + ask.steps, state.max_steps):
                    if clock.cuda:
                        torch.cuda.synchronize()
                    clock.ends.append(time.perf_counter())
                if state.global_step == ask.warmup + ask.steps:
                    clock.trainer.shared = ()

        return Ends()

    def figures(self) -> dict[str, Any]:
        """Milliseconds a step, the mean of the timed ones."""
        ask = self.ask
        steps = range(ask.warmup, ask.warmup + ask.steps)
        parts: dict[str, Any] = {f"{name}_ms": sum(self.apart(one) for one in spans if one[0] in steps) / ask.steps for name, spans in self.spans.items()}
        for name, spans in (("host", self.host), ("data", self.data)):
            parts[f"{name}_ms"] = 1e3 * sum(seconds for step, seconds in spans if step in steps) / ask.steps
        seconds = self.ends[1] - self.ends[0]
        by_step = [round(sum(self.apart(one) for one in self.spans["pass"] if one[0] == step)) for step in steps]
        return {**parts, "seconds": seconds, "step_ms": 1e3 * seconds / ask.steps, "apart_ms": 1e3 * (self.ends[2] - self.ends[1]) / ask.apart, "steps_ms": by_step,
                "median_ms": statistics.median(by_step)}

    def apart(self, span: tuple[int, Any, Any]) -> float:
        """Milliseconds between two points."""
        _, began, ended = span
        return float(began.elapsed_time(ended)) if self.cuda else 1e3 * (ended - began)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--how", default="ddp", choices=["one", "ddp", "fsdp"])
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--shape", default="7b", choices=["7b", "1.7b", "tiny"])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp8"])
    parser.add_argument("--limit-gib", type=float, default=0.0, help="memory that a GPU may use; 0: what is free")
    parser.add_argument("--copies", type=int, default=0, choices=[0, 1, 2], help="of an FP8 base; 0: as chosen")
    parser.add_argument("--per-step", type=int, default=160, help="examples an optimizer step, over all processes")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--apart", type=int, default=4, help="steps at the end in which nobody waits for the others")
    parser.add_argument("--compile", action="store_true", help="also on a CPU")
    parser.add_argument("--deadline", type=float, default=240.0, help="seconds after which no line is begun")
    parser.add_argument("--limit", type=float, default=170.0, help="seconds that one line may take")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
