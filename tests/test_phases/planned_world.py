"""A small, consistent world for plan_fit: documents about invented devices, pairs, splits and a real tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from forge.phase import Rehearsal
from forge.records import (
    Chat,
    DataContract,
    Document,
    Example,
    KnownBase,
    Message,
    Pair,
    Passage,
    Source,
    Split,
    digest,
    write_json,
    write_jsonl,
)

SYSTEM = "You answer questions about the devices of the station."
ABSTENTION = "I cannot answer that from the station's documents."
TEMPLATE = (
    "{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)
MAKERS = ("Arvo", "Belmar", "Corwin", "Dantec", "Elbrus", "Fenwick", "Galdor", "Hesper", "Ilmari", "Jorvik", "Kestrel", "Lumen",
          "Maribor", "Norden", "Orsova", "Pallas")
DEVICES = ("pump", "valve", "sensor", "boiler", "filter", "turbine")
QUESTIONS = (
    ("factual", "What pressure does the {name} hold?"),
    ("factual", "How many bar can the {name} take?"),
    ("procedure", "When is the {name} inspected, and how?"),
    ("procedure", "Who looks after the {name} each season?"),
    ("cause", "Why would the {name} stop during a storm?"),
    ("place", "Where at the station is the {name} mounted?"),
)
HELD_OUT = (1, 3)
"""Forms that are asked in test_recall; another form of each of their facts is trained on."""


def documents(makers: Sequence[str] = MAKERS) -> list[Passage]:
    """One document per maker and device; every one has its own numbers and its own name."""
    return [_passage(maker, device) for maker, device in product(makers, DEVICES)]


def pairs_of(passages: Sequence[Passage], *, each: int = len(QUESTIONS)) -> list[Pair]:
    """`each` pairs per passage, whose answers are copied from it, plus one out-of-scope pair for every third passage."""
    made = [_pair(passage, form) for passage in passages for form in range(each)]
    return made + [_out_of_scope(number) for number in range(0, len(passages), 3)]


def example(pair: Pair, split: Split) -> Example:
    """A chat row of a pair."""
    user, assistant = Message(role="user", content=pair.question), Message(role="assistant", content=pair.answer)
    chat = Chat(prompt=(Message(role="system", content=SYSTEM), user), completion=(assistant,), answerable=bool(pair.passage))
    origin = (pair.passage,) if pair.passage else ()
    return Example(id=f"{split}-{pair.id}", split=split, group=pair.group, origin=origin, bucket=pair.bucket, body=chat)


class World:
    """Inputs of plan_fit in memory; change any of them before `write`."""

    def __init__(self, folder: Path, *, makers: Sequence[str] = MAKERS, each: int = len(QUESTIONS)) -> None:
        self.folder, self.clean = folder, documents(makers)
        self.pairs = pairs_of(self.clean, each=each)
        unseen = {passage.group for passage in self.clean if passage.source.path.startswith(makers[-1].lower())}
        val = {passage.group for passage in self.clean if passage.source.path.startswith(makers[0].lower())}
        self.splits: dict[Split, list[Example]] = {}
        in_scope = [pair for pair in self.pairs if pair.passage]
        self.splits["train"] = [example(p, "train") for p in in_scope if p.group not in unseen | val and p.form not in HELD_OUT]
        self.splits["val"] = [example(p, "val") for p in in_scope if p.group in val]
        self.splits["test_recall"] = [example(p, "test_recall") for p in in_scope if p.group not in unseen | val and p.form in HELD_OUT]
        self.splits["test_unseen"] = [example(p, "test_unseen") for p in in_scope if p.group in unseen]
        far = [pair for pair in self.pairs if not pair.passage]
        self.splits["train"] += [example(p, "train") for p in far[::2]]
        self.splits["test_abstain"] = [example(p, "test_abstain") for p in far[1::2]]
        self.pretrain = [passage for passage in self.clean if passage.group not in unseen | val]
        self.pretrain_val = [passage for passage in self.clean if passage.group in val]
        self.template, self.left_out = TEMPLATE, 0
        self.contract: dict[str, Any] = {}
        self.checks: dict[str, Any] = {"judge": {"state": "off", "why": "the teacher offline copies its answers"}, "round_trip": {"state": "off"}}

    def write(self) -> dict[str, Path]:
        """Write every input and return its path by artifact name."""
        self.folder.mkdir(parents=True, exist_ok=True)
        paths = {name: self.folder / f"{name}.jsonl" for name in ("clean", "pairs", "pretrain", "pretrain_val", *self.splits)}
        for name, rows in self.splits.items():
            write_jsonl(paths[name], rows)
        write_jsonl(paths["clean"], self.clean)
        write_jsonl(paths["pairs"], self.pairs)
        write_jsonl(paths["pretrain"], self.pretrain)
        write_jsonl(paths["pretrain_val"], self.pretrain_val)
        write_json(self.folder / "audit.json", {"kept": len(self.clean)})
        write_json(self.folder / "checks.json", self.checks)
        write_jsonl(self.folder / "documents.jsonl", self.read_files())
        tokenizer = write_tokenizer(self.folder / "tokenizer", self.template)
        write_json(self.folder / "shape.json", self._contract(tokenizer))
        (self.folder / "base-source").mkdir(exist_ok=True)
        write_json(self.folder / "base-source" / "base.json", KnownBase(kind="scratch", name="scratch"))
        return {
            **paths, "synth_checks": self.folder / "checks.json", "documents": self.folder / "documents.jsonl", "audit": self.folder / "audit.json", "shape": self.folder / "shape.json", "tokenizer": tokenizer,
            "base_source": self.folder / "base-source",
        }

    def read_files(self) -> list[Document]:
        """The files behind the passages, and the sampled-away ones of a rehearsal (`left_out`)."""
        read = [Document(id=p.group, source=p.source, media_type="text/markdown", status="ok") for p in self.clean]
        gone = Source(path="gone.md", sha256="0")
        return read + [
            Document(id=f"z{n}", source=gone, media_type="text/markdown", status="skipped", reason="not in the dry-run sample")
            for n in range(self.left_out)
        ]

    def _contract(self, tokenizer: Path) -> DataContract:
        tokens = {name: sum(_tokens(row) for row in rows) for name, rows in self.splits.items()}
        longest = max((_tokens(row) for rows in self.splits.values() for row in rows), default=0)
        values: dict[str, Any] = {
            "base": "scratch", "system_prompt": SYSTEM, "abstention": ABSTENTION,
            "chat_template_sha256": hashlib.sha256((tokenizer / "chat_template.jinja").read_bytes()).hexdigest(),
            "counts": {name: len(rows) for name, rows in self.splits.items()},
            "groups": {name: len({row.group for row in rows}) for name, rows in self.splits.items()},
            "tokens": tokens, "longest": longest, "longest_prompt": longest, "max_length": 512, "too_long": 0,
            "pretrain_tokens": sum(_tokens_of(passage.text) for passage in self.pretrain), "vocab_size": 600,
            "leakage": {"shared_groups": 0.0}, "buckets": {"factual": 1}, **self.contract,
        }
        return DataContract(**values)


def rehearsed(seen: list[dict[str, Path]] | None = None, error: str = "") -> Callable[[Any, Any], Rehearsal]:
    """A rehearse() that notes its inputs and succeeds, or fails with `error`."""

    def rehearse(phases: Any, inputs: Any) -> Rehearsal:
        if seen is not None:
            seen.append(dict(inputs))
        return Rehearsal(seconds={"train": 30.0, "quantize": 10.0}, metrics={"train": {"steps": 4.0}}, error=error)

    return rehearse


@cache
def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )
    tokenizer.train_from_iterator([passage.text for passage in documents()] + [SYSTEM, ABSTENTION], trainer)
    return tokenizer


def write_tokenizer(folder: Path, template: str = TEMPLATE) -> Path:
    """A tokenizer folder as shape leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    _tokenizer().save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    write_json(folder / "tokenizer_config.json", config)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def _tokens_of(text: str) -> int:
    return len(_tokenizer().encode(text).ids)


def _tokens(row: Example) -> int:
    assert isinstance(row.body, Chat)
    return sum(_tokens_of(turn.content) + 5 for turn in (*row.body.prompt, *row.body.completion))


def _passage(maker: str, device: str) -> Passage:
    seed = int(digest(maker, device)[:6], 16)
    name, bar, weeks = f"{maker}-{device.capitalize()}{seed % 90 + 10}", seed % 400 + 12, seed % 37 + 3
    text = (
        f"The {name} is a {device} of the weather station. It holds a pressure of {bar} bar without leaking.\n"
        f"Trained engineers inspect the {name} after {weeks} weeks of service and write the result into the station log.\n"
        f"During a storm the {name} stops by itself because its {device} relay opens above {bar + 55} bar.\n"
        f"The {name} is mounted on the northern platform of the station, {weeks + 4} metres above the water line."
    )
    source = Source(path=f"{maker.lower()}/{device}.md", sha256=digest(maker), locator=f"heading={device}")
    return Passage(
        id=f"{maker.lower()}-{device}", source=source, group=f"{maker.lower()}-{device}", text=text, tokens=len(text.split()),
        meta={"name": name},
    )


def _pair(passage: Passage, form: int) -> Pair:
    bucket, question = QUESTIONS[form]
    lines = passage.text.split("\n")
    evidence = lines[{"factual": 0, "procedure": 1, "cause": 2, "place": 3}[bucket]]
    name = passage.meta["name"]
    return Pair(
        id=f"{passage.id}-{form}", bucket=bucket, question=question.format(name=name), answer=evidence, evidence=evidence,
        passage=passage.id, group=passage.group, fact=f"{passage.id}-{bucket}", form=form, source=passage.source,
        teacher="offline", names=(name,),
    )


def _out_of_scope(number: int) -> Pair:
    topics = ("opera", "chess", "tulip", "glacier", "violin", "harbour", "novel", "marathon")
    verbs = ("explain", "rate", "price", "translate")
    topic, verb = topics[number // 3 % len(topics)], verbs[number // 24 % len(verbs)]
    return Pair(
        id=f"far-{number}", bucket="out_of_scope", question=f"Please {verb} {topic} number {number} for me.", answer=ABSTENTION,
        group=f"far-{number}", fact=f"far-{number}", teacher="offline",
    )
