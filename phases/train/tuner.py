"""Adapter training itself, from a loaded base and encoded examples to a tuned model: a thin layer over trl's SFTTrainer.

recipes/lora_sft.py calls it for a run, bench/gpu_train.py to measure it, with the same functions. What is added to trl: rows that
hold a fixed number of examples a step (packing.py), the way that fits the machine (ways.py), checked by a trial step and made
smaller by itself when memory runs out, the lean loss and optimizer for GPUs, and checkpoints that are whole or not there.
"""

from __future__ import annotations

import functools
import gc
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from forge.errors import ForgeError, UsageError
from forge.phases.train.attention import register_varlen
from forge.phases.train.cuda_graphs import (
    GraphedDecoder,
    Padding,
    lengthened,
    padding_for,
    record_on_gpu,
)
from forge.phases.train.distributed import any_of, one_disk, processes, share_gradients, share_start
from forge.phases.train.fp8 import freeze_in_fp8
from forge.phases.train.loss import install_label_loss
from forge.phases.train.masters import master_adamw
from forge.phases.train.nf4 import freeze_in_nf4
from forge.phases.train.packing import IGNORED, Encoded, Packed, flat_rows, pack_rows
from forge.phases.train.saving import load_adapter
from forge.phases.train.schedule import make_scheduler
from forge.phases.train.shards import (
    causal,
    clip_shards,
    holds_shards,
    is_split,
    load_split,
    save_split,
)
from forge.phases.train.ways import Way

MAX_NORM = 1.0
VALIDATIONS, LOGS = 6, 20
GRAPHED_TOLERANCE = 0.02
"""Between a row's loss and gradient norm by a recording and without: attention adds gradients up in any order, in bfloat16."""


class Numbers(NamedTuple):
    """What the plan decides. save_steps, log_steps: in optimizer steps."""

    steps: int
    learning_rate: float
    seed: int
    save_steps: int
    log_steps: int


def adapt(base: Any, adapter: Any, way: Way, *, seed: int) -> Any:
    """The base with a fresh adapter (a peft LoraConfig), ready to be trained the given way; without an adapter all of it is trained."""
    import torch
    from peft import get_peft_model

    base.set_attn_implementation(register_varlen())
    base.config.use_cache = False
    if way.precision == "nf4":
        freeze_in_nf4(base, way.device)  # a base on the CPU goes to the GPU matrix by matrix, already small
        base.to(way.device)
        base.is_loaded_in_4bit = True  # peft asks; the Trainer would take it for a model that cannot be trained
    torch.manual_seed(seed)  # the adapter's first values
    model = get_peft_model(base, adapter, autocast_adapter_dtype=not way.lean) if adapter is not None else base.requires_grad_(True)
    base.__dict__.pop("is_loaded_in_4bit", None)
    if way.lean:
        _adapters_in_bfloat16(model)
    if way.precision == "fp8":
        freeze_in_fp8(model, one_copy=way.one_copy)
    set_checkpointing(model, way.checkpoint_every)
    if way.compile:
        compile_layers(model)
    return model


def set_checkpointing(model: Any, every: int) -> None:
    """Compute every n-th layer twice instead of keeping its activations; 0: none."""
    base = causal(model)
    if not every:
        return
    base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    base.enable_input_require_grads()
    for number, layer in enumerate(base.model.layers):  # by hand: every_n_layers is newer than transformers 5.17
        if hasattr(layer, "gradient_checkpointing"):
            layer.gradient_checkpointing = number % every == 0


def compile_layers(model: Any) -> None:
    """Compile each layer by itself: one graph that all share, ready in seconds, whatever the length of a row."""
    import torch

    torch._dynamo.config.cache_size_limit = max(64, torch._dynamo.config.cache_size_limit)
    for layer in causal(model).model.layers:
        layer.compile(dynamic=None)


def release(model: Any) -> Any:
    """The base without adapter, compiled code and checkpointing; an FP8 or NF4 base stays rounded."""
    base = model.get_base_model()
    base.gradient_checkpointing_disable()
    if hasattr(base, "_require_grads_hook"):
        base.disable_input_require_grads()
    for layer in base.model.layers:
        layer._compiled_call_impl = None
    base.__dict__.pop("forward", None)  # the loss that was installed
    base.model.__dict__.pop("forward", None)  # and the recordings
    return model.unload()


def make_trainer(
    model: Any, tokenizer: Any, examples: Sequence[Encoded], packed: Packed, numbers: Numbers, way: Way, folder: Path,
    *, validation: Sequence[Encoded] = (), learning_rate_schedule: str = "cosine",
) -> Any:
    """An SFTTrainer over the packed rows; `folder` gets its checkpoints."""
    import datasets
    from trl import SFTConfig

    datasets.disable_caching()
    datasets.disable_progress_bars()
    held_out = flat_rows(validation, pack_rows([len(one.ids) for one in validation], way.row_tokens)) if validation else None
    arguments = SFTConfig(
        output_dir=str(folder), max_steps=numbers.steps, per_device_train_batch_size=1, per_device_eval_batch_size=1,
        gradient_accumulation_steps=packed.rows_per_step // processes(), train_sampling_strategy="sequential",
        learning_rate=numbers.learning_rate, weight_decay=0.0,
        max_grad_norm=0.0 if way.lean else MAX_NORM, optim="adamw_torch",
        bf16=False,  # a lean model is bfloat16 as it is: autocast would cast every weight at every use
        use_cpu=way.device == "cpu", gradient_checkpointing=False, seed=numbers.seed,
        padding_free=True, packing=False, max_length=None, eos_token=tokenizer.eos_token,
        logging_steps=steps_between_logs(numbers, way.device),
        logging_nan_inf_filter=False,  # it reads every loss back from the GPU
        eval_strategy="steps" if held_out else "no", eval_steps=max(1, numbers.steps // VALIDATIONS), prediction_loss_only=True,
        save_strategy="steps", save_steps=numbers.save_steps, save_total_limit=2, ddp_find_unused_parameters=False,
        save_on_each_node=not one_disk(folder), disable_tqdm=True, report_to="none", dataloader_num_workers=0, dataloader_pin_memory=way.device == "cuda",
        accelerator_config={"non_blocking": way.device == "cuda"},  # the next rows are prepared while the GPU computes
    )  # fmt: skip
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = _optimizer(weights, numbers, way)
    scheduler = make_scheduler(optimizer, numbers.steps, constant=learning_rate_schedule == "constant")
    trainer = _trainer_class()(
        model=model, args=arguments, processing_class=tokenizer, optimizers=(optimizer, scheduler),
        train_dataset=datasets.Dataset.from_dict(flat_rows(examples, packed.rows)),
        eval_dataset=datasets.Dataset.from_dict(held_out) if held_out else None,
    )
    if way.lean:
        trainer.make_lean(ReadyRows(examples, packed.rows), graphed=way.graphed)
    if processes() > 1:
        trainer.train_together(weights)
    return trainer


def steps_between_logs(numbers: Numbers, device: str) -> int:
    """On a GPU every line waits for it, and a short training still has LOGS of them. A resumed Trainer forgets losses that it has not logged yet."""
    return 1 if device == "cpu" else min(numbers.log_steps, max(1, numbers.steps // LOGS))


def _optimizer(weights: list[Any], numbers: Numbers, way: Way) -> Any:
    import torch

    if way.lean:
        return master_adamw(weights, learning_rate=numbers.learning_rate, max_norm=MAX_NORM)
    return torch.optim.AdamW(weights, lr=numbers.learning_rate, weight_decay=0.0)


def train_on(trainer: Any, watcher: Any, checkpoint: Path | None, report_to: Sequence[str] = ()) -> None:
    """Train to the end, or from a checkpoint on. Nothing is printed. report_to: integrations of transformers (mlflow, tensorboard)."""
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    if watcher is not None:
        trainer.add_callback(watcher)
    for callback in reporting(report_to):
        trainer.add_callback(callback)
    gc.collect()
    gc.freeze()  # what libraries and compile left, millions of objects, would be searched again and again while the GPU waits
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        gc.unfreeze()


def reporting(names: Sequence[str]) -> list[Any]:
    """transformers' own callbacks for these places. Raises UsageError for one that it does not know or whose library is missing."""
    from transformers.integrations import get_reporting_integration_callbacks

    try:
        return [callback() for callback in get_reporting_integration_callbacks(list(names))] if names else []
    except (ValueError, RuntimeError, ImportError) as error:
        raise UsageError(
            f"train.report_to={', '.join(names)} cannot be reported to", why=" ".join(str(error).split())[:300],
            next="install its library on the machine that trains, or forge resume --set train.report_to=[]",
        ) from error


def trial_step(trainer: Any, packed: Packed, lengths: Sequence[int], tell: Callable[[str], None] = lambda text: None) -> bool:
    """Forward and backward passes over the longest row and those with the most and the fewest examples, and their recordings where
    the way wants them (cuda_graphs.py); False when memory does not suffice. Changes nothing that is trained.

    Three rows, because compiled layers take a size for fixed until they see another: rows of a step hold about as many examples, and
    the first with another number would stop a measured or billed run for a recompilation (seen at row 45 of 108, 2026-11-21).
    Several processes try the same rows and agree. Where they share a split model, one that runs out of memory raises: the others wait
    for it in a layer, and only a new start helps.
    """
    import torch

    numbers = range(len(packed.rows))
    longest = max(numbers, key=lambda number: sum(lengths[example] for example in packed.rows[number]))
    most, fewest = (pick(numbers, key=lambda number: len(packed.rows[number])) for pick in (max, min))
    model, fits = trainer.model, True
    try:
        model.to(trainer.args.device).train()
        for number in dict.fromkeys((most, fewest, longest)):
            found = _one_pass(trainer, trainer.data_collator([trainer.train_dataset[number]]))
        if trainer.wants_graphs:
            _record_passes(trainer, longest, found, tell)
    except torch.OutOfMemoryError:
        if is_split(model):
            raise
        fits = False
    finally:
        model.zero_grad(set_to_none=True)
        trainer._total_train_tokens = 0
        trainer._metrics["train"].clear()
    return not any_of(not fits)


def _one_pass(trainer: Any, batch: dict[str, Any]) -> tuple[Any, Any]:
    """(loss, norm of the gradients) of one row, both as tensors on the device."""
    import torch

    model = trainer.model
    loss = trainer.compute_loss(model, trainer._prepare_inputs(batch), num_items_in_batch=torch.tensor(1, device=trainer.args.device))
    loss.backward()
    norm = torch.nn.utils.get_total_norm([weight.grad for weight in model.parameters() if weight.grad is not None])
    model.zero_grad(set_to_none=True)
    return loss.detach(), norm


def _record_passes(trainer: Any, row: int, plain: tuple[Any, Any], tell: Callable[[str], None]) -> None:
    """Record the passes; without them when the model does not allow it, or when a row's loss and gradients are not what they were."""
    import torch

    weights = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    graphed = GraphedDecoder(causal(trainer.model).model, weights, trainer.ready.pad(), tell)
    try:
        record_on_gpu(graphed)
        graphed.install()
        found = _one_pass(trainer, trainer.ready[row])
        if all(torch.isclose(ours, theirs, rtol=GRAPHED_TOLERANCE) for ours, theirs in zip(found, plain, strict=True)):
            return
        why = f"loss and gradient norm of a row are {found[0]:.4f} and {found[1]:.4f} instead of {plain[0]:.4f} and {plain[1]:.4f}"
    except RuntimeError as error:
        if _is_out_of_memory(error):
            raise torch.OutOfMemoryError(str(error)) from error
        why = " ".join(str(error).split())[:200]
    graphed.remove()
    trainer.ready.padding = None
    tell(f"passes are not recorded as CUDA graphs: {why}")


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Or came of one: a recording that is broken off raises an error of its own."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or (error is not None and _is_out_of_memory(error.__context__))


def first_that_fits(ways: Sequence[Way], build: Callable[[Way], Any], tell: Callable[[str], None]) -> Any:
    """What `build` makes of the first way for which it does not run out of memory (it returns None then).

    Raises ForgeError when even the smallest does not fit.
    """
    for number, way in enumerate(ways):
        if (built := build(way)) is not None:
            return built
        _forget_memory()
        if number + 1 < len(ways):
            tell(f"out of memory with {way.row_tokens:,} tokens a pass; going on with {ways[number + 1].row_tokens:,}")
    raise too_large(ways[-1])


def train_that_fits(ways: Sequence[Way], build: Callable[[Way], Any], tell: Callable[[str], None], train: Callable[[Any], None]) -> Any:
    """Train with the first way that fits; when memory runs out on the way, go on from the last checkpoint with the next smaller one.

    `train` looks for the checkpoint itself. Raises ForgeError when nothing smaller is left.
    """
    import torch

    left = list(ways)
    while True:
        built = first_that_fits(left, build, tell)
        try:
            train(built)
        except torch.OutOfMemoryError:
            if processes() > 1:
                raise  # the others wait for us: all start again (launch.py)
            left = left[left.index(built[1]) + 1 :]
            built = None
        if built is not None:
            return built
        _forget_memory()
        if not left:
            raise too_large(ways[-1])
        tell(f"out of memory in training; going on from the last checkpoint with {left[0].row_tokens:,} tokens a pass")


def too_large(way: Way) -> ForgeError:
    """The error when even this way, the smallest, ran out of memory."""
    return ForgeError(
        "the model does not fit this machine", why=f"even {way.row_tokens:,} tokens a pass ran out of memory",
        next="forge resume --set train.precision=nf4, or plan a machine with more GPU memory",
    )


def _forget_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class ReadyRows:
    """The rows of training as the batches that _LeanCollator makes of trl's, one by one when they are asked for."""

    def __init__(self, examples: Sequence[Encoded], rows: Sequence[tuple[int, ...]]) -> None:
        import numpy

        self._ids = [numpy.array(one.ids, dtype=numpy.int64) for one in examples]
        self._answers = [one.prompt_length for one in examples]
        self._rows = rows
        self.padding: Padding | None = None

    def pad(self) -> Padding:
        """From now on every row is lengthened to one of a few sizes."""
        self.padding = padding_for(self._rows, [len(one) for one in self._ids])
        return self.padding

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """input_ids, labels, position_ids: (1, tokens); cu_seq_lens: (examples + 1); label_positions, targets: (answer tokens)."""
        import numpy
        import torch

        members = self._rows[number]
        parts, prompts = [self._ids[one] for one in members], [max(1, self._answers[one]) for one in members]
        lengths = [len(part) for part in parts]
        starts, longest = [0, *itertools.accumulate(lengths)], max(lengths)
        if self.padding is not None:
            added, starts = lengthened(lengths, self.padding)
            parts, prompts, lengths, longest = [*parts, numpy.zeros(added, dtype=numpy.int64)], [*prompts, added], [*lengths, added], self.padding.longest
        ids = numpy.concatenate(parts)
        positions = numpy.concatenate([numpy.arange(length) for length in lengths])
        labels = numpy.where(positions < numpy.repeat(prompts, lengths), IGNORED, ids)
        predict = numpy.flatnonzero(labels[1:] != IGNORED)
        bounds = torch.tensor(starts, dtype=torch.int32)
        return {
            "input_ids": torch.from_numpy(ids)[None], "labels": torch.from_numpy(labels)[None], "position_ids": torch.from_numpy(positions)[None],
            "cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds.clone(), "max_length_q": longest, "max_length_k": longest,
            "label_positions": torch.from_numpy(predict), "targets": torch.from_numpy(labels[1:][predict]),
        }


def _only_one(batch: list[dict[str, Any]]) -> dict[str, Any]:
    return batch[0]


def _adapters_in_bfloat16(model: Any) -> None:
    import torch

    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.to(torch.bfloat16)


def _train_once(model: Any) -> Callable[..., Any]:
    """model.train() that does nothing when the model trains already: the Trainer calls it at every pass, for 5 ms of a 7B model's
    1,500 modules, and each change of a module makes compiled layers check all that they assumed about it."""
    original = type(model).train

    def train(mode: bool = True) -> Any:
        return model if model.training is mode else original(model, mode)

    return train


@functools.cache
def _trainer_class() -> Any:
    from trl import SFTTrainer

    class PackedTrainer(SFTTrainer):  # type: ignore[misc, unused-ignore]
        """trl's trainer; on a GPU with a loss and a collator that never wait for it."""

        is_lean, ready, wants_graphs = False, None, False
        shared: Sequence[Any] = ()
        data_collator: Any
        optimizer: Any

        def train_together(self, weights: list[Any]) -> None:
            """Be one of several processes. accelerate would wrap the model in DistributedDataParallel (distributed.py says why not)."""
            self.accelerator.prepare_model = lambda model, **_: model
            if is_split(self.model):  # its gradients are averaged as they are cut
                self.accelerator.clip_grad_norm_ = clip_shards
                return
            self.shared = weights
            share_start(weights)

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            """One forward and backward pass; after the last of a step, the gradients of all processes meet."""
            loss = super().training_step(model, inputs, num_items_in_batch)
            if self.shared and self.accelerator.sync_gradients:
                share_gradients(self.shared)
            return loss

        def make_lean(self, rows: ReadyRows, *, graphed: bool) -> None:
            """Replace trl's loss by the one of loss.py and let batches bring the positions of their answers. rows: those of training.
            graphed: their passes are to be recorded (trial_step)."""
            self.is_lean, self.ready, self.wants_graphs = True, rows, graphed
            install_label_loss(causal(self.model))
            self.data_collator = _LeanCollator(self.data_collator)
            self.model.train = _train_once(self.model)

        def get_train_dataloader(self) -> Any:
            """Of batches that are made from arrays: trl's collator takes 8 ms for a row of 2,000 tokens, during which the GPU waits."""
            if self.ready is None:
                return super().get_train_dataloader()
            from torch.utils.data import DataLoader

            rows: Any = self.ready
            return self.accelerator.prepare(DataLoader(rows, batch_size=1, collate_fn=_only_one, pin_memory=self.args.dataloader_pin_memory))

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            """The summed loss of the answers over `num_items_in_batch`, the answer tokens of the whole step."""
            if not self.is_lean:
                return super().compute_loss(model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch)
            inputs = {name: value for name, value in inputs.items() if name != "labels"}
            loss = model(**inputs).loss
            counted = inputs["targets"].numel() if num_items_in_batch is None else num_items_in_batch
            together = self.accelerator.num_processes if self.model.training and num_items_in_batch is not None else 1  # the mean of all is taken
            return loss * together / counted

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            """Of a split model every process saves its part."""
            if not is_split(self.model):
                super()._save_checkpoint(model, trial)
                return
            save_split(Path(self.args.output_dir), self.model, self.optimizer, self.lr_scheduler, self.state, everywhere=self.args.save_on_each_node)

        def _load_from_checkpoint(self, resume_from_checkpoint: Any, model: Any = None) -> None:
            """Parts are loaded with the optimizer's, bfloat16 adapters in their place: PeftModel.load_adapter() would put float32 weights
            beside them, which no optimizer holds (peft 0.21)."""
            if holds_shards(Path(resume_from_checkpoint)):
                return
            if self.is_lean and hasattr(self.model, "peft_config"):
                load_adapter(self.model, Path(resume_from_checkpoint))
            else:
                super()._load_from_checkpoint(resume_from_checkpoint, model)

        def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
            """Those of the checkpoint; of a split one, the weights as well."""
            if checkpoint is None or not holds_shards(Path(checkpoint)):
                super()._load_optimizer_and_scheduler(checkpoint)
                return
            load_split(Path(checkpoint), self.model, self.optimizer, self.lr_scheduler, self.state.global_step)

        def floating_point_ops(self, inputs: Any) -> int:
            """Not counted on a GPU: walking all modules for it takes 5 ms at every pass of a 7B model."""
            return 0 if self.is_lean else int(super().floating_point_ops(inputs))

        def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
            """The optimizer has it already."""
            return None if self.is_lean else super()._get_grad_norm(model, grad_norm=grad_norm)

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            """With the norm that the optimizer clipped."""
            if self.is_lean and "loss" in logs:
                logs["grad_norm"] = float(getattr(self.optimizer, "optimizer", self.optimizer).grad_norm)
            super().log(logs, start_time)

    class _LeanCollator:
        """trl's flat batch with the positions that predict an answer token and their targets, found on the CPU."""

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __call__(self, rows: Any) -> Any:
            batch = self.inner(rows)
            batch.pop("seq_idx", None)
            following = batch["labels"][:, 1:].flatten()
            positions = (following != -100).nonzero().flatten()
            return {**batch, "label_positions": positions, "targets": following[positions]}

    return PackedTrainer
