"""quantize: one merged model, its GGUF files, the proof that they are the model, and what the files that ship are worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from forge.phase import Context, Estimate, Output, Requirement, Settings
from forge.records import Plan, read_record

WEIGHTS_PER_SECOND = 1.5e6
"""Q4_K_M on one busy core (publish research: 189M weights in 105 s); merge, F16 and Q8_0 are ten times faster."""


class QuantizeSettings(Settings):
    """How much is measured. Which files are made is the plan's decision (plan.quantizations)."""

    likelihood_rows: int = Field(
        default=200, ge=2, description="test rows whose gold answers are scored with every file; rows of each split"
    )
    imatrix_rows: int = Field(
        default=0, ge=0,
        description="training rows on which is measured which weights matter, for the rounding of Q4_K_M, Q5_K_M and Q6_K; 0: off",
    )
    llama_cpp_dir: str = Field(
        default="",
        description="a checkout of llama.cpp, whose converter exports what slm-forge does not (gemma, phi, SentencePiece); empty: fetched when needed"
    )
    lora_gguf: bool = Field(
        default=False, description="also write the adapter alone as a GGUF file, for llama.cpp's --lora on the base; never for a base from scratch"
    )
    generated_rows: int = Field(
        default=240, ge=2, description="test rows that the file which the Modelfile names answers freely; rows of each split"
    )
    other_rows: int = Field(
        default=80, ge=0, description="of these, how many each other file answers; a file that surely fails where the named one does not is left out"
    )


class Quantize:
    """Merge, export, quantize, parity gate, Modelfile, evaluation of the shipped file. Runs where the adapter was trained."""

    name: ClassVar[str] = "quantize"
    VERSION: ClassVar[int] = 6
    summary: ClassVar[str] = "merge the adapter, write GGUF files, prove that they are the model, measure the file that ships"
    reads: ClassVar[tuple[str, ...]] = (
        "plan", "approval", "machine", "base_model", "adapter", "eval", "predictions", "train", "test_recall", "test_unseen", "test_abstain",
    )
    writes: ClassVar[tuple[Output, ...]] = (
        Output(name="model", path="model"), Output(name="gguf", path="gguf"),
        Output(name="modelfile", path="Modelfile"), Output(name="ship_eval", path="ship-eval.json"),
    )
    settings: ClassVar[type[Settings]] = QuantizeSettings
    where: ClassVar[Literal["engine", "machine"]] = "machine"
    libraries: ClassVar[tuple[str, ...]] = ("slm-forge", "torch", "transformers", "peft", "gguf", "llama-cpp-python")
    requires: ClassVar[tuple[Requirement, ...]] = (
        Requirement(module="transformers", extra="train"), Requirement(module="peft", extra="train"),
        Requirement(module="gguf", extra="export"),
    )
    always: ClassVar[bool] = False

    def estimate(self, settings: QuantizeSettings, ctx: Context) -> Estimate:
        """Imports, then the weights at quantization speed, then the evaluation of the files."""
        plan = read_record(ctx.input("plan"), Plan)
        weights = plan.parameters / WEIGHTS_PER_SECOND
        others = len(set(plan.quantizations) | {"F16"}) - 1
        generated = settings.generated_rows + others * min(settings.other_rows, settings.generated_rows)
        rows = (2 * settings.likelihood_rows * (others + 1) + 2 * generated * 10) * plan.parameters * 2e-9
        return Estimate(
            seconds_p50=8 + weights + rows, seconds_p90=20 + 3 * (weights + rows),
            basis=f"{plan.parameters / 1e6:.1f}M weights, {settings.likelihood_rows} + {settings.generated_rows} rows of each split",
        )

    def run(self, settings: QuantizeSettings, ctx: Context) -> Mapping[str, float | str]:
        """Make and measure the files. Raises GateFailed when a file is not the model that was trained."""
        from forge.phases.quantize.ship import ship_model
        from forge.phases.quantize.unmeasured import has_llama_cpp, ship_unmeasured

        return ship_model(settings, ctx) if has_llama_cpp() else ship_unmeasured(settings, ctx)

    def undo(self, settings: QuantizeSettings, ctx: Context) -> None:
        """Nothing exists outside the run folder."""


phase = Quantize()
