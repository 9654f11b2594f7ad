"""`forge chat`: the quantized file of a run, asked through llama.cpp in a process of its own."""

from __future__ import annotations

import json
import sys

from forge import ui
from forge.cli.result import model_folder
from forge.errors import UsageError
from forge.records import Plan, read_record
from forge.registry import Registry
from forge.run import Run


def talk(run_id: str, question: str, *, as_json: bool) -> None:
    """Answer one question, or hold a conversation until an empty line."""
    run = Run.open(run_id)
    folder, artifact = model_folder(run), run.store.get("plan")
    files = sorted((folder / "gguf").glob("*.gguf")) if folder else []
    if artifact is None or not files:
        raise UsageError(f"run {run.id} has no published model", why=f"its state is {run.state.get('outcome', 'new')}", next=f"forge resume {run.id}")
    if run.dry_run:
        ui.say("this model is from a rehearsal: it has learned next to nothing")
    plan = read_record(run.store.link(artifact), Plan)
    gguf = min(files, key=lambda file: ("Q4_K_M" not in file.name, file.name))
    with Registry().tool("chat")(gguf, plan.system_prompt) as conversation:
        if question:
            _show(question, conversation.reply(question), as_json=as_json)
            return
        ui.say(f"{gguf.name} · empty line or Ctrl-D ends it")
        while asked := _read():
            _show(asked, conversation.reply(asked), as_json=as_json)


def _read() -> str:
    if sys.stdin.isatty():
        ui.say(">")
    return sys.stdin.readline().strip()


def _show(question: str, answer: str, *, as_json: bool) -> None:
    ui.out(json.dumps({"question": question, "answer": answer}, ensure_ascii=False) if as_json else answer)
