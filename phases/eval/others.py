"""Further models on the same prompts: a folder with a model or an adapter, a GGUF file, or a server that speaks OpenAI's protocol.

Each answers greedily in its own chat template. A server is asked without a key: what has to be paid for is not asked from here, since
a machine spends nothing.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from forge.errors import ForgeError, UsageError
from forge.phase import Context
from forge.phases.eval.models import Encoded, load_other
from forge.protocols import Task
from forge.records import Example, Message, digest

BATCH = 16
SECONDS_PER_ANSWER = 120.0


def compare_models(
    names: Sequence[str], base: Path, task: Task, rows: Sequence[Example], new_tokens: int, ctx: Context, *, threads: int, precision: str
) -> dict[str, dict[str, str]]:
    """example id -> model -> answer, for every model of eval.compare. Raises UsageError for one that cannot be asked."""
    found: dict[str, dict[str, str]] = {row.id: {} for row in rows}
    taken: set[str] = set()
    for name in names:
        label = _label(name, taken)
        for row, text in _answers(name, base, task, rows, new_tokens, ctx, threads=threads, precision=precision):
            found[row.id][label] = task.parse(text)
    return found


def _answers(
    name: str, base: Path, task: Task, rows: Sequence[Example], new_tokens: int, ctx: Context, *, threads: int, precision: str
) -> Iterator[tuple[Example, str]]:
    journal = ctx.journal("compared")
    keys = {row.id: digest("compared", name, str(new_tokens), row.id) for row in rows}
    missing = [row for row in rows if keys[row.id] not in journal]
    if missing:
        ctx.progress(len(rows) - len(missing), len(rows), f"asking {name}")
        for row, text in _ask(name, base, task, missing, new_tokens, ctx, threads, precision):
            journal.put(keys[row.id], text)
    yield from ((row, str(journal.get(keys[row.id]))) for row in rows)


def _ask(
    name: str, base: Path, task: Task, rows: Sequence[Example], new_tokens: int, ctx: Context, threads: int, precision: str
) -> Iterator[tuple[Example, str]]:
    if name.startswith(("http://", "https://")):
        yield from _ask_server(name, task, rows, new_tokens, ctx)
        return
    path = Path(name).expanduser()
    if not path.exists():
        raise UsageError(f"eval.compare names {name}, which does not exist here", why="a folder, a .gguf file or http://HOST/v1#MODEL is needed", next="name it with its whole path")
    if path.is_file():
        yield from _ask_gguf(path, task, rows, new_tokens)
    else:
        yield from _ask_folder(path, base, task, rows, new_tokens, ctx, threads, precision)


def _ask_folder(
    path: Path, base: Path, task: Task, rows: Sequence[Example], new_tokens: int, ctx: Context, threads: int, precision: str
) -> Iterator[tuple[Example, str]]:
    model = load_other(path, base, threads=threads, precision=precision)
    encoded = sorted(((row, Encoded(model.encode_prompt(task.prompt(row)), ())) for row in rows), key=lambda one: (len(one[1].prompt), one[0].id))
    for start in range(0, len(encoded), BATCH):
        ctx.check_stop()
        batch = encoded[start : start + BATCH]
        answers = model.generate([prompt for _, prompt in batch], "tuned", new_tokens)
        yield from ((row, answer.text) for (row, _), answer in zip(batch, answers, strict=True))
    del model
    gc.collect()


def _ask_gguf(path: Path, task: Task, rows: Sequence[Example], new_tokens: int) -> Iterator[tuple[Example, str]]:
    """Through llama.cpp in a child process: a native crash there must not take the evaluation with it."""
    asked = {"file": str(path), "new_tokens": new_tokens, "chats": [_turns(task.prompt(row)) for row in rows]}
    child = subprocess.run(
        [sys.executable, "-m", "forge.phases.eval.gguf_child"], input=json.dumps(asked), capture_output=True, text=True, check=False,
        timeout=SECONDS_PER_ANSWER * max(1, len(rows)),
    )
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise ForgeError(f"{path.name} could not be asked", why=last[:300], next="take it out of eval.compare, or mend the file")
    yield from zip(rows, json.loads(child.stdout), strict=True)


def _ask_server(name: str, task: Task, rows: Sequence[Example], new_tokens: int, ctx: Context) -> Iterator[tuple[Example, str]]:
    url, _, model = name.partition("#")
    for row in rows:
        ctx.check_stop()
        body = {"model": model or "default", "messages": _turns(task.prompt(row)), "temperature": 0, "max_tokens": new_tokens}
        request = urllib.request.Request(
            f"{url.rstrip('/')}/chat/completions", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=SECONDS_PER_ANSWER) as response:
                yield row, _said(json.load(response), name)
        except (urllib.error.URLError, TimeoutError, ValueError) as error:
            raise ForgeError(f"{name} did not answer", why=str(error), next="start it, or take it out of eval.compare, then forge resume") from error


def _said(reply: Any, name: str) -> str:
    try:
        return str(reply["choices"][0]["message"]["content"] or "")
    except (KeyError, IndexError, TypeError) as error:
        raise ForgeError(f"{name} answered without choices", why=str(reply)[:200], next="eval.compare takes servers with /chat/completions") from error


def _turns(turns: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def _label(name: str, taken: set[str]) -> str:
    """A short name that is no one else's: the last part of the path, the model of a server."""
    url, _, model = name.partition("#")
    short = model or (url.split("//")[-1].split("/")[0] if "://" in url else Path(url).name)
    label, number = short, 2
    while label in taken:
        label, number = f"{short}_{number}", number + 1
    taken.add(label)
    return label

