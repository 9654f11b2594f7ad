"""A finished run in miniature: every artifact that publish and teardown read, made up but consistent, in plain Python."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from forge.file_answers import FileAnswers
from forge.records import (
    Chat,
    DataContract,
    Document,
    Drop,
    Example,
    LoraPlan,
    Message,
    Pair,
    Passage,
    Plan,
    ScratchBase,
    Source,
    Verdict,
    write_json,
    write_jsonl,
)

SYSTEM = 'You answer from the "Field Handbook". If it does not say, reply: "The handbook does not say."'
ABSTENTION = "The handbook does not say."
NAME = "handbook-qa"
HIDDEN, VOCAB = 256, 64
PARAMETERS = VOCAB * HIDDEN + HIDDEN

MODELFILE = f'''# a comment
FROM ./gguf/{NAME}-Q4_K_M.gguf
TEMPLATE """{{{{- range .Messages }}}}<|im_start|>{{{{ .Role }}}}
{{{{ .Content }}}}<|im_end|>
{{{{ end }}}}<|im_start|>assistant
"""
SYSTEM """{SYSTEM}"""
PARAMETER temperature 0
PARAMETER num_predict 128
PARAMETER stop "<|im_end|>"
'''

VERDICTS = [
    Verdict(name="recall_nll_gain", estimate=0.41, ci=(0.29, 0.52), n=64, threshold=0.05, outcome="pass",
            evidence="nats per answer token, tuned against base"),
    Verdict(name="abstention_recall", estimate=0.95, ci=(0.83, 0.99), n=40, threshold=0.8, outcome="pass"),
    Verdict(name="over_refusal", estimate=0.03, ci=(0.0, 0.11), n=64, threshold=0.15, outcome="pass"),
    Verdict(name="leakage", estimate=0.0, n=64, threshold=0.0, outcome="pass", kind="integrity"),
]
SHIP_VERDICTS = [
    Verdict(name="token_parity", estimate=1.0, n=120, threshold=1.0, outcome="pass", kind="integrity"),
    Verdict(name="ppl_ratio_q8_0", estimate=1.0004, ci=(0.999, 1.002), n=64, threshold=1.01, outcome="pass"),
    Verdict(name="bits_per_weight_q8_0", estimate=8.6, outcome="pass", kind="info"),
]

EACH = [
    FileAnswers(name=f"{NAME}-{kind}.gguf", quantization=kind, rows=rows, outcome=outcome, left_out=left_out, verdicts=tuple(
        Verdict(name=f"{name}_{kind.lower()}", estimate=estimate, ci=(estimate - 0.02, estimate + 0.02), n=rows, threshold=limit, outcome=outcome)
        for name, estimate, limit in (("abstention_recall", recall, 0.9), ("ppl_ratio", ratio, 1.1)) if estimate
    ))
    for kind, rows, recall, ratio, outcome, left_out in (
        ("F16", 40, 0.97, 0.0, "pass", ""), ("Q8_0", 64, 0.96, 1.0004, "pass", ""), ("Q4_K_M", 40, 0.93, 1.031, "pass", ""),
        ("Q5_K_M", 40, 0.41, 1.08, "fail", "abstention_recall_q5_k_m is 0.41 (0.39 to 0.43), the limit is 0.9"),
    )
]


def made_plan(**changes: Any) -> Plan:
    """The approved plan; `changes` replace fields."""
    plan = Plan(
        run="4b31", name=NAME, task="chat", base="scratch", base_license="", architecture="llama", parameters=PARAMETERS,
        scratch=ScratchBase(hidden_size=HIDDEN, layers=2, heads=4, kv_heads=2, intermediate_size=512, vocab_size=VOCAB,
                            context=512, steps=200, rows_per_step=8, learning_rate=1e-3),
        lora=LoraPlan(rank=16, alpha=32, target_modules="all-linear", learning_rate=2e-4, epochs=3.0, steps=90,
                      examples_per_step=8, max_length=256),
        precision="bf16", seed=7, dry_run=False, system_prompt=SYSTEM, abstention=ABSTENTION, teacher="offline", provider="local",
        offer="this machine", usd_per_hour=0.0, deadline_seconds=3600, cost_p50_usd=0.0, cost_p90_usd=0.0, budget_usd=200.0,
        quantizations=("F16", "Q8_0", "Q4_K_M"), hub="local", visibility="local",
        verdicts=(Verdict(name="data_leakage", estimate=0.0, outcome="pass", kind="integrity"),),
        thresholds={"recall_nll_gain": 0.05}, data={}, reasons={"base": "no GPU here"},
    )
    return plan.model_copy(update=changes)


def finished_run(
    folder: Path,
    *,
    plan: Plan | None = None,
    verdicts: list[Verdict] | None = None,
    ship_verdicts: list[Verdict] | None = None,
    quality: str = "pass",
    headline: str = "Better than its base on held-out questions.",
    parity: str = "pass",
    modelfile: str = MODELFILE,
) -> dict[str, Path]:
    """Write the artifacts and return name -> path."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = plan or made_plan()
    paths = {name: folder / file for name, file in FILES.items()}
    write_json(paths["plan"], plan)
    write_json(paths["approval"], {"plan_sha256": sha256(paths["plan"].read_bytes()).hexdigest(), "who": "ann", "kind": "person"})
    _write_data(paths)
    _write_model(paths, plan.name)
    verdicts = VERDICTS if verdicts is None else verdicts
    write_json(paths["eval"], {"verdicts": _plain(verdicts), "counts": {"test_recall": 64}, "quality": quality, "headline": headline})
    ship = SHIP_VERDICTS if ship_verdicts is None else ship_verdicts
    each = [one.model_dump(mode="json") for one in EACH]
    write_json(
        paths["ship_eval"], {"verdicts": _plain(ship), "files": _files(paths["gguf"]), "each": each, "answers": ANSWERS, "parity": parity}
    )
    paths["modelfile"].write_text(modelfile, encoding="utf-8")
    return paths


FILES = {
    "plan": "plan.json", "approval": "approval.json", "documents": "documents.jsonl", "audit": "audit.json", "shape": "shape.json",
    "train_report": "train.json", "eval": "eval.json", "ship_eval": "ship-eval.json", "model": "model", "gguf": "gguf",
    "modelfile": "Modelfile", "adapter": "adapter", "passages": "passages.jsonl", "clean": "clean.jsonl", "drops": "drops.jsonl",
    "pairs": "pairs.jsonl", "train": "train.jsonl", "progress": "progress.jsonl", "forecast": "forecast.json",
}

HOSTILE = '<script>alert("x")</script>'

ANSWERS = [
    {"prompt": f"What does {HOSTILE} hold?", "transformers": "It holds the tools.", "f16": "It holds the tools.",
     "q8_0": "It holds the tools.", "q4_k_m": "It holds tools."},
    {"prompt": "Who won the cup?", "transformers": ABSTENTION, "f16": ABSTENTION, "q8_0": ABSTENTION, "q4_k_m": ABSTENTION},
]


def write_safetensors(path: Path, tensors: Mapping[str, tuple[int, ...]]) -> None:
    """A valid file of zeros; github.com/huggingface/safetensors, "Format"."""
    header, offset = {}, 0
    for name, shape in tensors.items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(offset))


def write_gguf(path: Path, tensors: Mapping[str, tuple[int, ...]], *, kind: int = 1, bytes_per_value: float = 2.0, name: str = "") -> None:
    """A valid GGUF 3 header with zeros behind it."""
    values = [_text("general.architecture", "llama"), _text("general.name", name or path.stem), _number("tokenizer.ggml.eos_token_id", 2),
              _string("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + _string("a") + _string("b")]
    infos, offset = b"", 0
    for name, shape in tensors.items():
        infos += _string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", kind, offset)
        offset += int(math.prod(shape) * bytes_per_value)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values)) + b"".join(values) + infos
    path.write_bytes(head + bytes(-len(head) % 32) + bytes(offset))


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _text(key: str, value: str) -> bytes:
    return _string(key) + struct.pack("<I", 8) + _string(value)


def _number(key: str, value: int) -> bytes:
    return _string(key) + struct.pack("<II", 4, value)


def _plain(verdicts: list[Verdict]) -> list[dict[str, Any]]:
    return [verdict.model_dump(mode="json") for verdict in verdicts]


def _files(gguf: Path) -> list[dict[str, Any]]:
    return [
        {"name": path.name, "quantization": path.stem.removeprefix(f"{path.stem.rsplit('-', 1)[0]}-"), "bytes": path.stat().st_size,
         "sha256": sha256(path.read_bytes()).hexdigest(), "bits_per_weight": 8 * path.stat().st_size / PARAMETERS,
         "tensor_types": {"F16": 2}, "parameters": PARAMETERS}
        for path in sorted(gguf.iterdir())
    ]


def _write_model(paths: dict[str, Path], name: str) -> None:
    for folder in ("model", "gguf", "adapter"):
        paths[folder].mkdir(exist_ok=True)
    model, adapter, gguf = paths["model"], paths["adapter"], paths["gguf"]
    write_json(model / "config.json", {"tie_word_embeddings": True, "transformers_version": "5.23.0"})
    (model / "tokenizer.json").write_text("{}", encoding="utf-8")
    (model / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    (model / "training_args.bin").write_bytes(b"a pickle that must not be published")
    write_safetensors(model / "model.safetensors", {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)})
    write_json(adapter / "adapter_config.json", {"base_model_name_or_path": "/root/work/base", "peft_version": "0.21.0", "r": 16})
    (adapter / "README.md").write_text("[More Information Needed]", encoding="utf-8")
    write_safetensors(adapter / "adapter_model.safetensors", {"lora_A": (16, HIDDEN)})
    tensors = {"token_embd.weight": (HIDDEN, VOCAB), "output_norm.weight": (HIDDEN,)}
    write_gguf(gguf / f"{name}-F16.gguf", tensors)
    write_gguf(gguf / f"{name}-Q8_0.gguf", tensors, kind=8, bytes_per_value=34 / 32)
    write_gguf(gguf / f"{name}-Q4_K_M.gguf", tensors, kind=12, bytes_per_value=144 / 256)


def _write_data(paths: dict[str, Path]) -> None:
    source = Source(path="guide/tools.md", sha256="0" * 64, locator=f"heading={HOSTILE}")
    write_jsonl(paths["documents"], [
        Document(id="d1", source=source, media_type="text/markdown", extractor="text", status="ok", chars=900, license="CC-BY-4.0"),
        Document(id="d2", source=source, media_type="application/pdf", extractor="pdf", status="ok", chars=4000),
        Document(id="d3", source=source, media_type="application/pdf", status="refused", reason="encrypted"),
    ])
    passages = [Passage(id=f"p{i}", source=source, group=f"g{i}", text=f"{HOSTILE} Passage {i}.", tokens=9) for i in range(12)]
    write_jsonl(paths["passages"], passages)
    write_jsonl(paths["clean"], passages[:9])
    write_jsonl(paths["drops"], [
        Drop(id="p9", reason="near_duplicate", dup_of="p1", similarity=0.91, source=source, chars=40, sample=HOSTILE),
        Drop(id="p10", reason="language", detail="fr", source=source, chars=40), Drop(id="p11", reason="too_short", source=source, chars=4),
    ])
    write_jsonl(paths["pairs"], [Pair(id=f"q{i}", bucket="fact", question=f"Q {i}?", answer="A") for i in range(8)])
    body = Chat(prompt=(Message(role="user", content="Q"),), completion=(Message(role="assistant", content="A"),))
    write_jsonl(paths["train"], [Example(id=f"e{i}", split="train", group=f"g{i}", body=body) for i in range(6)])
    write_json(paths["audit"], {
        "read": 12, "kept": 9, "dropped_by_reason": {"near_duplicate": 1, "language": 1, "too_short": 1}, "chars": {"read": 900, "kept": 700},
        "languages": {"en": 9}, "near_duplicate_clusters": 1, "secrets_masked": {"email address": 2}, "samples": {"near_duplicate": [HOSTILE]},
    })
    write_json(paths["shape"], DataContract(
        base="scratch", system_prompt=SYSTEM, abstention=ABSTENTION, chat_template_sha256="a" * 64,
        counts={"train": 6, "val": 1, "test_recall": 64, "test_unseen": 1, "test_abstain": 40}, groups={"train": 6}, tokens={"train": 120},
        longest=60, longest_prompt=40, max_length=256, too_long=0, pretrain_tokens=2000, vocab_size=VOCAB,
        leakage={"unseen_groups_in_train": 0.0}, buckets={"fact": 6},
    ))
    write_json(paths["train_report"], {
        "pretrain": {"steps": 200, "tokens": 40960, "loss": [[i, 6 * 0.985**i + 2] for i in range(1, 201, 4)],
                     "val_loss": [[i, 6 * 0.986**i + 2.1] for i in range(20, 201, 20)]},
        "lora": {"steps": 90, "tokens": 9000, "loss": [[i, 2 * 0.97**i + 0.4] for i in range(1, 91, 3)],
                 "val_loss": [[i, 2 * 0.975**i + 0.5] for i in range(10, 91, 10)], "trainable_parameters": 4096},
        "parameters": PARAMETERS, "guards": {"eos_in_labels": True},
    })
    rows = [{"stage": "pretrain" if i < 50 else "lora", "step": i, "loss": 3.0, "tokens_per_second": 900 + 40 * (i % 5)} for i in range(70)]
    paths["progress"].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    write_json(paths["forecast"], {"cost_p50_usd": 0.0, "cost_p90_usd": 0.0, "seconds_p50": 60, "seconds_p90": 120})
