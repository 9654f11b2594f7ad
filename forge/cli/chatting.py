"""`forge chat` and `forge serve`: the published model of a run, through llama.cpp in a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from forge import ui
from forge.cli.result import model_folder
from forge.errors import UsageError
from forge.records import Plan, read_record
from forge.registry import Registry
from forge.run import Run

ENGINES = {
    "forge": "; `abstained` is true when it declines",
    "llama-server": "; llama.cpp's own server answers, several clients at a time",
}
"""What can answer, and what is said of it at the start."""


def talk(run_id: str, question: str, *, as_json: bool) -> None:
    """Answer one question, or hold a conversation until an empty line. Answers appear as they are made."""
    folder, plan = published(run_id)
    with Registry().tool("chat")(folder) as conversation:
        if question:
            _show(question, conversation.reply(question), plan.abstention, as_json=as_json)
            return
        ui.say(f"{conversation.shipped.file.name} · empty line or Ctrl-D ends it")
        while asked := _read():
            _show(asked, conversation.reply(asked), plan.abstention, as_json=as_json)


def serve(run_id: str, port: int, *, engine: str, as_json: bool) -> None:
    """Answer OpenAI clients on this machine until Ctrl-C. engine: one of ENGINES."""
    if engine not in ENGINES:
        raise UsageError(f'there is no engine "{engine}"', why=f"known: {', '.join(ENGINES)}", next=f"forge serve {run_id} --engine forge")
    folder, plan = published(run_id)
    server = Registry().tool("serve")(folder, name=plan.name, abstention=plan.abstention, port=port, engine=engine)
    if as_json:
        ui.out(json.dumps({"url": server.url, "model": plan.name, "file": str(server.file), "engine": engine}))
    else:
        ui.out(f"{plan.name} answers at {server.url} (this machine only; Ctrl-C ends it)")
        ui.out(f"  its system prompt, template and greedy sampling are the shipped ones{ENGINES[engine]}")
        body = json.dumps({"messages": [{"role": "user", "content": "What is this about?"}]})
        ui.next_step(f"curl {server.url}/chat/completions -H 'Content-Type: application/json' -d '{body}'")
    try:
        server.serve_forever(poll_interval=0.2)
    finally:
        server.end()


def published(run_id: str) -> tuple[Path, Plan]:
    """The folder of a run's published model, and its plan. Raises UsageError for a run without one."""
    run = Run.open(run_id)
    folder, artifact = model_folder(run), run.store.get("plan")
    if artifact is None or folder is None or not folder.is_dir():
        raise UsageError(f"run {run.id} has no published model", why=f"its state is {run.state.get('outcome', 'new')}", next=f"forge resume {run.id}")
    if run.dry_run:
        ui.say("this model is from a rehearsal: it has learned next to nothing")
    return folder, read_record(run.store.link(artifact), Plan)


def _read() -> str:
    if sys.stdin.isatty():
        ui.say(">")
    return sys.stdin.readline().strip()


def _show(question: str, pieces: Iterable[str], abstention: str, *, as_json: bool) -> None:
    if as_json:
        answer = "".join(pieces).strip()
        ui.out(json.dumps({"question": question, "answer": answer, "abstained": answer == abstention}, ensure_ascii=False))
        return
    answer = ui.stream(pieces)
    if answer == abstention:
        ui.say(ui.paint(ui.DIM, "  (declined: the sentence for what the documents do not tell)", err=True))
