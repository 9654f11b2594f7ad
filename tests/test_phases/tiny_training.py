"""A world that train and eval can be run on for real in seconds: 30 passages, a tokenizer of their own, a plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from forge.records import (
    Chat,
    Example,
    KnownBase,
    LoraPlan,
    Message,
    Passage,
    Plan,
    ScratchBase,
    Source,
    write_json,
    write_jsonl,
)
from forge.store import hash_path

ABSTENTION = "I cannot answer that from these documents."
SYSTEM = "Answer from the manual."
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ENDLESS = CHATML.replace("<|im_end|>", "")
"""A template that never ends a turn: what it trains cannot stop."""

SHAPE = ScratchBase(
    hidden_size=64, layers=1, heads=2, kv_heads=1, intermediate_size=128, vocab_size=400, context=128, steps=6, rows_per_step=4,
    learning_rate=3e-3,
)
PARTS = ["pump", "valve", "filter", "motor", "sensor", "relay", "gasket", "rotor", "clamp", "gauge"]
MAKERS = ["AquaLine", "BoreTec", "CoreFlow"]
OUTSIDE = ["Who won the cup in 1954?", "What is the capital of Peru?", "How do I bake bread?", "Which planet is the largest?"]


def make_inputs(folder: Path, *, template: str = CHATML, **plan: Any) -> dict[str, Path]:
    """Every artifact that train reads and the tests that eval reads, with a plan that approves them."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = [(part, maker, f"{number + 2} bar") for number, part in enumerate(PARTS) for maker in MAKERS]
    passages = [_passage(index, f"The {maker} {part} is opened at {bar}. Close it at once.") for index, (part, maker, bar) in enumerate(facts)]
    train = [_example(f"a{i}", "train", i, f"When is the {maker} {part} opened?", f"At {bar}.", maker) for i, (part, maker, bar) in enumerate(facts[:24])]
    recall = [_example(f"r{i}", "test_recall", i, f"Say when the {maker} {part} opens.", f"At {bar}.", maker) for i, (part, maker, bar) in enumerate(facts[:12])]
    unseen = [_example(f"u{i}", "test_unseen", 24 + i, f"When is the {maker} {part} opened?", f"At {bar}.", maker) for i, (part, maker, bar) in enumerate(facts[24:28])]
    refused = [_example(f"n{i}", "train", 100 + i, question, ABSTENTION, "", answerable=False) for i, question in enumerate(OUTSIDE)]
    abstain = [_example(f"t{i}", "test_abstain", 200 + i, question.replace("the", "a"), ABSTENTION, "", answerable=False) for i, question in enumerate(OUTSIDE)]
    rows: dict[str, list[Any]] = {
        "train": [*train, *refused], "val": [row.model_copy(update={"split": "val"}) for row in unseen], "test_recall": recall,
        "test_unseen": unseen, "test_abstain": abstain, "pretrain": passages[:24], "pretrain_val": passages[24:],
    }
    paths = {name: folder / f"{name}.jsonl" for name in rows}
    for name, records in rows.items():
        write_jsonl(paths[name], records)
    paths["tokenizer"] = make_tokenizer(folder / "tokenizer", [passage.text for passage in passages], template)
    paths["base_source"] = folder / "base-source"
    paths["base_source"].mkdir(exist_ok=True)
    write_json(paths["base_source"] / "base.json", KnownBase(kind="scratch", name="scratch"))
    approve(folder, paths, **plan)
    return paths


def approve(folder: Path, paths: dict[str, Path], **changes: Any) -> None:
    """Write a plan for the data as they are now, with its approval and machine, into `paths`."""
    hashes = {name: hash_path(path) for name, path in sorted(paths.items()) if name not in ("plan", "approval", "machine")}
    write_json(folder / "plan.json", make_plan(hashes, **changes))
    write_json(folder / "approval.json", {"plan_sha256": hash_path(folder / "plan.json"), "who": "test", "kind": "test"})
    write_json(folder / "machine.json", {"offer": {}, "lease": "test"})
    paths |= {name: folder / f"{name}.json" for name in ("plan", "approval", "machine")}


def make_plan(hashes: dict[str, str], *, steps: int = 6, lora_steps: int = 6, **changes: Any) -> Plan:
    """A one-layer model and a few steps; `changes` are fields of Plan."""
    scratch = SHAPE.model_copy(update={"steps": steps})
    lora = LoraPlan(
        rank=8, alpha=16, target_modules="all-linear", learning_rate=4e-3, epochs=1, steps=lora_steps, examples_per_step=4, max_length=128
    )
    values: dict[str, Any] = {
        "run": "t", "name": "tiny", "task": "chat", "base": "scratch", "base_license": "apache-2.0", "architecture": "LlamaForCausalLM",
        "parameters": 70_000, "scratch": scratch, "lora": lora, "precision": "fp32", "seed": 7, "dry_run": False,
        "system_prompt": SYSTEM, "abstention": ABSTENTION, "teacher": "offline", "provider": "local", "offer": "here",
        "usd_per_hour": 0.0, "deadline_seconds": 600, "cost_p50_usd": 0.0, "cost_p90_usd": 0.0, "budget_usd": 1.0,
        "quantizations": ("q8_0",), "hub": "local", "visibility": "local", "verdicts": (),
        "thresholds": {"recall_nll_gain": 0.0, "abstention_recall": 0.9, "over_refusal": 0.05, "name_fidelity": 0.98, "min_test_items": 30},
        "data": hashes, "reasons": {},
    }
    return Plan(**{**values, **changes})


def make_tokenizer(folder: Path, texts: list[str], template: str = CHATML, vocab_size: int = 400) -> Path:
    """A byte-level BPE as shape makes it, loadable by AutoTokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False, "model_max_length": 128,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def _passage(index: int, text: str) -> Passage:
    return Passage(id=f"p{index:03}", source=Source(path=f"{index}.md", sha256="0" * 64), group=f"g{index}", text=text)


def _example(id: str, split: Any, group: int, question: str, answer: str, name: str, *, answerable: bool = True) -> Example:
    body = Chat(
        prompt=(Message(role="system", content=SYSTEM), Message(role="user", content=question)),
        completion=(Message(role="assistant", content=answer),), answerable=answerable,
    )
    return Example(id=id, split=split, group=f"g{group}", bucket="fact" if answerable else "abstain", names=(name,) if name else (), body=body)
