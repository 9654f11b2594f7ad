"""Everything that a card may say, measured: read from the run's artifacts, never from a card or a setting's wish."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field

from forge.errors import ArtifactDamaged, UsageError
from forge.file_answers import FileAnswers, read_each
from forge.gguf_header import GgufHeader, read_gguf
from forge.phase import Context
from forge.phases.publish.headers import read_safetensors
from forge.phases.publish.modelfile import Modelfile, parse_modelfile
from forge.phases.publish.usage import Usage, estimate_usage
from forge.records import (
    DataContract,
    Document,
    Plan,
    Record,
    Verdict,
    read_jsonl,
    read_record,
)
from forge.store import hash_file

MODEL_FILES = {
    "config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja",
}
ADAPTER_FILES = {"adapter_config.json", "adapter_model.safetensors"}
"""The allow-lists: a file that is not named here (or *.safetensors, or a measured *.gguf) is never published."""


HASHED = ("audit", "documents", "eval", "shape", "ship_eval")
"""Artifacts whose hashes the card names."""


class ShippedFile(Record):
    """One quantized file as quantize measured it, and as its own header describes it."""

    name: str
    quantization: str
    bytes: int
    sha256: str
    bits_per_weight: float | None
    parameters: int
    tensor_types: dict[str, int]
    nll_ratio: float | None

    @property
    def path(self) -> str:
        """Where it lies in the published folder."""
        return f"gguf/{self.name}"


class Stage(Record):
    """One training stage as the trainer reported it; losses are nats per token at the last step."""

    steps: int | None = None
    tokens: int | None = None
    first_loss: float | None = None
    last_loss: float | None = None
    last_val_loss: float | None = None
    trainable_parameters: int | None = None


class Facts(Record):
    """The measured run. A number that was not measured is None, and the card says so."""

    plan: Plan
    plan_sha256: str
    shape: DataContract
    modelfile: Modelfile
    modelfile_text: str
    eval_json: dict[str, Any]
    ship_json: dict[str, Any]
    eval_verdicts: tuple[Verdict, ...]
    ship_verdicts: tuple[Verdict, ...]
    parameters: int
    shipped: tuple[ShippedFile, ...]
    each: tuple[FileAnswers, ...] = ()
    gguf: dict[str, GgufHeader]
    adapter_file: str = ""
    pretrain: Stage | None
    lora: Stage | None
    reported_parameters: int | None
    documents: dict[str, int]
    document_status: dict[str, int]
    document_licences: dict[str, int]
    passages_read: int | None
    passages_kept: int | None
    dropped: dict[str, int]
    secrets_masked: dict[str, int]
    languages: tuple[str, ...]
    versions: dict[str, str]
    hashes: dict[str, str]
    legal: dict[str, str] = Field(default_factory=dict)
    terms: str = ""
    usage: Usage = Usage()


def read_facts(ctx: Context, *, license_file: str = "", terms: str = "") -> Facts:
    """Gather the facts of a run. Raises ArtifactDamaged when a measured file is not what its measurement says.

    license_file: a licence's text that a person gives; terms: what a person decided about what no program can (licence.open_terms).
    """
    plan = read_record(ctx.input("plan"), Plan)
    ship_json, eval_json = read_object(ctx.input("ship_eval")), read_object(ctx.input("eval"))
    ship_verdicts, each = _verdicts(ship_json), read_each(ship_json)
    train, audit = read_object(ctx.input("train_report")), read_object(ctx.input("audit"))
    documents = list(read_jsonl(ctx.input("documents"), Document))
    ok = [document for document in documents if document.status == "ok"]
    modelfile_text = ctx.input("modelfile").read_text(encoding="utf-8")
    pretrain, lora = _stage(train.get("pretrain")), _stage(train.get("lora"))
    parameters = count_parameters(ctx.input("model"))
    return Facts(
        plan=plan, plan_sha256=ctx.input_sha256("plan"), shape=read_record(ctx.input("shape"), DataContract),
        modelfile=parse_modelfile(modelfile_text), modelfile_text=modelfile_text,
        eval_json=eval_json, ship_json=ship_json, eval_verdicts=_verdicts(eval_json), ship_verdicts=ship_verdicts,
        parameters=parameters,
        adapter_file=_adapter_file(ctx.input("gguf"), ship_json),
        shipped=_shipped(ship_json, (*ship_verdicts, *(one for file in each for one in file.verdicts))), each=tuple(each), gguf=_gguf_headers(ctx.input("gguf"), ship_json),
        pretrain=pretrain, lora=lora,
        reported_parameters=train.get("parameters"),
        documents=_count(document.media_type for document in ok),
        document_status=_count(document.status for document in documents),
        document_licences=_count(document.license or "none stated" for document in ok),
        passages_read=audit.get("read"), passages_kept=audit.get("kept"),
        dropped=_ordered(audit.get("dropped_by_reason") or {}),
        secrets_masked=_ordered(audit.get("secrets_masked") or {}),
        languages=languages_of(audit), versions=_versions(ctx),
        hashes={name: ctx.input_sha256(name) for name in HASHED},
        legal=_legal(ctx, license_file), terms=" ".join(terms.split()),
        usage=estimate_usage(plan, parameters, pretrain.tokens if pretrain else None, lora.tokens if lora else None),
    )


def count_parameters(model: Path) -> int:
    """Weights of a merged checkpoint, a tied output matrix counted once."""
    config = read_object(model / "config.json")
    tensors = dict(read_safetensors(model).tensors)
    if config.get("tie_word_embeddings"):
        tensors.pop("lm_head.weight", None)
    return sum(tensors.values())


def _gguf_headers(folder: Path, ship_json: dict[str, Any]) -> dict[str, GgufHeader]:
    """The headers of the measured files; their bytes must be the ones that were measured."""
    headers = {}
    for row in ship_json.get("files", []):
        path = folder / row["name"]
        if not path.is_file() or path.stat().st_size != row["bytes"] or hash_file(path) != row["sha256"]:
            raise ArtifactDamaged(
                f"{row['name']} is not the file that was measured",
                why="its size or sha256 differs from ship-eval.json", next="forge resume --from quantize",
            )
        headers[row["name"]] = read_gguf(path)
    return headers


def _adapter_file(folder: Path, ship_json: dict[str, Any]) -> str:
    """The name of the adapter's own GGUF file, when one was made and compared; its bytes must be those."""
    told = ship_json.get("lora")
    if not told:
        return ""
    path = folder / told["name"]
    if not path.is_file() or hash_file(path) != told["sha256"]:
        raise ArtifactDamaged(f"{told['name']} is not the file that was measured", next="forge resume --from quantize")
    return str(told["name"])


def _shipped(ship_json: dict[str, Any], verdicts: Iterable[Verdict]) -> tuple[ShippedFile, ...]:
    ratios = {verdict.name: verdict.estimate for verdict in verdicts}
    files = [
        ShippedFile(
            name=row["name"], quantization=row["quantization"], bytes=row["bytes"], sha256=row["sha256"],
            bits_per_weight=row.get("bits_per_weight"), parameters=row.get("parameters") or 0,
            tensor_types=row.get("tensor_types") or {}, nll_ratio=ratios.get(f"ppl_ratio_{row['quantization'].lower()}"),
        )
        for row in ship_json.get("files", [])
    ]
    return tuple(sorted(files, key=lambda file: (-file.bytes, file.name)))


def _legal(ctx: Context, license_file: str) -> dict[str, str]:
    """File name -> text of the licence files that came with the base, and of the one that was given."""
    found = {}
    if ctx.has_input("base_source") and (folder := ctx.input("base_source") / "legal").is_dir():
        found = {path.name: path.read_text(encoding="utf-8", errors="replace") for path in sorted(folder.iterdir())}
    if license_file:
        try:
            found["LICENSE"] = Path(license_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"publish.license_file {license_file} cannot be read", why=str(error), next="forge resume --set publish.license_file=FILE") from error
    return found


def _stage(report: dict[str, Any] | None) -> Stage | None:
    if not report:
        return None
    losses, val = report.get("loss") or [], report.get("val_loss") or []
    return Stage(
        steps=report.get("steps"), tokens=report.get("tokens"), trainable_parameters=report.get("trainable_parameters"),
        first_loss=losses[0][1] if losses else None, last_loss=losses[-1][1] if losses else None,
        last_val_loss=val[-1][1] if val else None,
    )


def _versions(ctx: Context) -> dict[str, str]:
    """Library versions that the checkpoint itself records."""
    found = {"transformers": read_object(ctx.input("model") / "config.json").get("transformers_version")}
    adapter = ctx.input("adapter") / "adapter_config.json"
    found["peft"] = read_object(adapter).get("peft_version") if adapter.is_file() else None
    return {name: str(version) for name, version in sorted(found.items()) if version}


def _verdicts(report: dict[str, Any]) -> tuple[Verdict, ...]:
    return tuple(Verdict.model_validate(row) for row in report.get("verdicts", []))


def languages_of(audit: dict[str, Any]) -> tuple[str, ...]:
    """Codes of the kept languages with at least 5 % of the text, most frequent first."""
    shares: dict[str, float] = audit.get("languages") or {}
    kept, total = audit.get("languages_kept") or list(shares), sum(shares.values()) or 1
    usual = [
        (-share, code) for code, share in shares.items()
        if code in kept and share / total >= 0.05 and len(code) in (2, 3) and code != "und"
    ]
    return tuple(code for _, code in sorted(usual))


def _count(words: Any) -> dict[str, int]:
    return _ordered(Counter(words))


def _ordered(counts: dict[str, int]) -> dict[str, int]:
    """Largest first, then by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactDamaged(f"{path.name} is not JSON", why=str(error)) from error
    if not isinstance(value, dict):
        raise ArtifactDamaged(f"{path.name} is not a JSON object")
    return value
