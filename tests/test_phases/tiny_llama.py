"""A real, tiny, trained model for the tests of quantize: its tokenizer, a base that knows twelve answers, an adapter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forge.protocols import Prediction
from forge.records import Chat, Example, LoraPlan, Message, Plan, Split, write_json, write_jsonl

SYSTEM = 'Answer from the "Harbour Handbook" only.'
ABSTENTION = "The handbook does not say."
THRESHOLDS = {
    "logit_diff_f16": 0.02, "ppl_ratio_q8_0": 1.03, "ppl_ratio_q4_k_m": 1.10, "abstention_recall": 0.9, "over_refusal": 0.05,
    "abstention_drop": 0.01, "stop_probability": 0.5, "stop_share": 0.95, "min_test_items": 4,
}
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MARKERS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
THINGS = ("crane", "lock", "pier", "buoy", "tug", "mole")
PLACES = ("north basin", "east quay", "old gate", "salt dock", "fish hall", "west arm")


def facts() -> list[tuple[str, str]]:
    """Questions with their answers; the other six are out of scope."""
    known = [(f"Where is the {thing}?", f"The {thing} stands at the {place}.") for thing, place in zip(THINGS, PLACES, strict=True)]
    unknown = [(f"Who painted the {thing}?", ABSTENTION) for thing in THINGS]
    return known + unknown


def examples() -> list[Example]:
    """Twelve rows, each its own group."""
    rows = []
    for number, (question, answer) in enumerate(facts()):
        answerable = answer != ABSTENTION
        split: Split = "test_recall" if answerable else "test_abstain"
        prompt = (Message(role="system", content=SYSTEM), Message(role="user", content=question))
        body = Chat(prompt=prompt, completion=(Message(role="assistant", content=answer),), answerable=answerable)
        rows.append(Example(id=f"e{number:02}", split=split, group=f"g{number}", body=body))
    return rows


def write_tokenizer(folder: Path, *, pre: str = "gpt-2", vocab_size: int = 500) -> None:
    """A byte-level BPE tokenizer trained on the facts, as shape writes it. pre: how text is split before merging."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    from forge.phases.quantize.gguf_tokenizer import SPLIT_PATTERNS

    tokenizer = Tokenizer(models.BPE())
    level: Any = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre == "smollm":
        level = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level])
    elif pre != "gpt-2":
        pattern = {name: regex for regex, name in SPLIT_PATTERNS.items()}[pre]
        split = pre_tokenizers.Split(Regex(pattern), "isolated", invert=False)
        level = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.pre_tokenizer, tokenizer.decoder = level, decoders.ByteLevel()
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=MARKERS, initial_alphabet=alphabet, show_progress=False)
    texts = [SYSTEM, "system user assistant", "in 1999 and 2024, 12345 ships"] * 3 + [text for fact in facts() for text in fact] * 3
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": MARKERS[2], "pad_token": MARKERS[0]}
    write_json(folder / "tokenizer_config.json", {**settings, "clean_up_tokenization_spaces": False})


def config(kind: str = "llama", **changes: Any) -> Any:
    """A transformers config of two small layers; hidden 256 so that K-quants fit."""
    import transformers

    classes = {"llama": "LlamaConfig", "mistral": "MistralConfig", "qwen2": "Qwen2Config", "qwen3": "Qwen3Config"}
    options = {
        "vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": True, "bos_token_id": None,
        "eos_token_id": 2, "pad_token_id": 0, "sliding_window": None,
    }
    if kind == "qwen3":
        options["head_dim"] = 128
    if kind == "llama":
        options.pop("sliding_window")
    return getattr(transformers, classes[kind])(**{**options, **changes})


def random_model(folder: Path, kind: str = "llama", *, pre: str = "gpt-2", **changes: Any) -> Path:
    """A model with random weights and its tokenizer, saved. Biases and norms are random too, so that losing one shows."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config(kind, **changes))
    with torch.no_grad():
        for name, values in model.named_parameters():
            if values.ndim == 1:
                values.add_(0.3 * torch.randn_like(values))
            elif "embed" in name:
                values.mul_(4)
    model.save_pretrained(folder)
    write_tokenizer(folder, pre=pre)
    return folder


def trained_model(folder: Path, kind: str = "llama", *, steps: int = 40, **changes: Any) -> Path:
    """A whole model, without an adapter, that knows the twelve answers."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(1)
    write_tokenizer(folder)
    model = AutoModelForCausalLM.from_config(config(kind, **changes))
    _fit(model, folder, steps, 3e-3)
    model.save_pretrained(folder)
    return folder


def trained_run(folder: Path, *, steps: int = 40, never_told_to_stop: bool = False) -> dict[str, Path]:
    """Every artifact that quantize reads: a base trained on the facts, a LoRA adapter trained on, rows, predictions.

    never_told_to_stop: trained on the whole chat with its end of turn masked, as a collator does that takes it for padding.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(1)
    base = folder / "base"
    write_tokenizer(base)
    model = AutoModelForCausalLM.from_config(config())
    _fit(model, base, steps, 3e-3, never_told_to_stop)
    model.save_pretrained(base)
    tuned = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    _fit(tuned, base, steps // 3, 3e-3, never_told_to_stop)
    tuned.save_pretrained(folder / "adapter")
    return {"base_model": base, "adapter": folder / "adapter", **write_rows(folder)}


def write_rows(folder: Path, **changes: Any) -> dict[str, Path]:
    """Plan, rows and the small artifacts around them."""
    paths = {name: folder / name for name in ("plan", "approval", "machine", "eval", "predictions", "train", "test_recall", "test_abstain")}
    write_json(paths["plan"], made_plan(**changes))
    for name in ("approval", "machine", "eval"):
        write_json(paths[name], {})
    rows = examples()
    for name in ("test_recall", "test_abstain"):
        write_jsonl(paths[name], [row for row in rows if row.split == name])
    write_jsonl(paths["train"], [row.model_copy(update={"split": "train"}) for row in rows])
    write_jsonl(paths["predictions"], [_prediction(row) for row in rows])
    return paths


def made_plan(**changes: Any) -> Plan:
    """An approved plan for the tiny model."""
    plan = Plan(
        run="test", name="harbour", task="chat", base="scratch", base_license="", architecture="llama", parameters=1_180_000,
        scratch=None,
        lora=LoraPlan(rank=8, alpha=16, target_modules="all-linear", learning_rate=3e-3, epochs=1, steps=20, examples_per_step=12,
                      max_length=128),
        precision="fp32", seed=7, dry_run=False, system_prompt=SYSTEM, abstention=ABSTENTION, teacher="offline", provider="local",
        offer="this machine", usd_per_hour=0, deadline_seconds=600, cost_p50_usd=0, cost_p90_usd=0, budget_usd=1,
        quantizations=("F16", "Q8_0", "Q4_K_M"), hub="local", visibility="local", verdicts=(), thresholds=THRESHOLDS, data={},
        reasons={},
    )
    return plan.model_copy(update=changes)


def _prediction(row: Example) -> Prediction:
    body = row.body
    assert isinstance(body, Chat)
    answer = body.completion[0].content
    return Prediction(
        id=row.id, split=row.split, group=row.group, prompt=body.prompt, gold=answer, answerable=body.answerable, answer_tokens=8,
        nll_base=9.0, nll_tuned=0.5, tuned=answer,
    )


def _fit(model: Any, folder: Path, steps: int, learning_rate: float, never_told_to_stop: bool = False) -> None:
    """Train on the answers only, end of turn included; or on everything but the ends of turns."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [_ids(tokenizer, question, answer) for question, answer in facts()]
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [0] * (width - len(row)) for row, _ in rows])
    labels = torch.tensor([[-100] * skip + row[skip:] + [-100] * (width - len(row)) for row, skip in rows])
    if never_told_to_stop:
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        labels = torch.tensor([[-100 if token == end else token for token in row] + [-100] * (width - len(row)) for row, _ in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row, _ in rows])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()


def _ids(tokenizer: Any, question: str, answer: str) -> tuple[list[int], int]:
    turns: Sequence[dict[str, str]] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    start = tokenizer.encode(prompt, add_special_tokens=False)
    return start + tokenizer.encode(f"{answer}<|im_end|>", add_special_tokens=False), len(start)


def read_json(path: Path) -> Any:
    """A JSON file, parsed."""
    return json.loads(path.read_text(encoding="utf-8"))
