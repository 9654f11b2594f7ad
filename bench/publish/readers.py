"""What others make of the files that we publish: one table, a line for each reader.

    python bench/publish/readers.py FOLDER [--question TEXT ...] [--node FOLDER] [--llama-server FILE] [--only READER ...]

FOLDER is a published model (hub/NAME). Each reader runs in a process of its own, on every file in FOLDER/gguf. Compared are: the ids of
awkward texts and of whole prompts with transformers' tokenizer; prompts with apply_chat_template, where a reader shows them; greedy
answers, also of a conversation of three turns, with those of slm-forge's own llama.cpp on the same file; and whether the answer ends
by the model's own end of turn. --node: where `npm install --ignore-scripts node-llama-cpp` was run. --llama-server: the program
(found on PATH as well). Readers from PyPI (xllamacpp, gpt4all, ctransformers) count when they are installed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from forge.phases.quantize.tool import Shipped, read_shipped

Json = dict[str, Any]
QUESTIONS = ("What is this about?", "Who won the football match last night?", "What should I do first?")
TEXTS = (
    "Hello, World! 12345 ünïcödé 日本語 🦙\u200d🔥", "  leading and   many    blanks\n\n\n\ttabs", "don't, we'll, I'D", "{{ .Role }} {% raw %} <b>&amp;</b> \\n",
    "e\u0301 \u00a0 \x0b\x1c", "3.14159e-10 = 0x1F; 2024-02-29",
)
READERS: dict[str, Callable[[Path, Path, Json], Json]] = {}
COLUMNS = ("reader", "version", "loads", "tokens", "prompts", "answers", "ends")
SECONDS = 300


def reader(name: str) -> Callable[[Callable[[Path, Path, Json], Json]], Callable[[Path, Path, Json], Json]]:
    """Registers a function of (published folder, GGUF file, what is asked) under the name in the table."""
    def register(function: Callable[[Path, Path, Json], Json]) -> Callable[[Path, Path, Json], Json]:
        READERS[name] = function
        return function
    return register


# --- the readers: {"version", "tokens": [[id]], "prompts": [text], "answers": [{"text", "ended"}]}, what they can show -----------


@reader("transformers, safetensors")
def transformers_safetensors(folder: Path, file: Path, asked: Json) -> Json:
    """The published weights themselves."""
    return _transformers(folder, asked, {})


@reader("transformers, GGUF")
def transformers_gguf(folder: Path, file: Path, asked: Json) -> Json:
    """from_pretrained(gguf_file=...): weights and tokenizer out of the GGUF file."""
    return _transformers(file.parent, asked, {"gguf_file": file.name})


@reader("llama-cpp-python, Llama")
def llama_cpp_python(folder: Path, file: Path, asked: Json) -> Json:
    """Its high-level class with its own Jinja, as the Space demo and most Python programs use it."""
    import llama_cpp

    model = llama_cpp.Llama(str(file), n_ctx=asked["context"], n_threads=1, verbose=False)
    answers = []
    for turns in asked["conversations"]:
        choice = model.create_chat_completion(messages=turns, temperature=0, repeat_penalty=1.0, max_tokens=asked["limit"])["choices"][0]
        answers.append({"text": choice["message"]["content"], "ended": choice["finish_reason"] == "stop"})
    tokens = [model.tokenize(text.encode(), add_bos=False, special=True) for text in asked["texts"]]
    return {"version": llama_cpp.__version__, "tokens": tokens, "answers": answers}


def _llama_server(asked: Json) -> str:
    program = asked["llama_server"] or shutil.which("llama-server")
    if not program:
        raise ModuleNotFoundError("llama-server")
    return str(program)


@reader("forge serve")
def forge_serve(folder: Path, file: Path, asked: Json) -> Json:
    """Our own server, over HTTP."""
    return _forge_serve(folder, file, asked, "forge")


@reader("forge serve --engine llama-server")
def forge_serve_llama_server(folder: Path, file: Path, asked: Json) -> Json:
    """llama.cpp's server as we start it."""
    program = _llama_server(asked)
    os.environ["PATH"] = f"{Path(program).resolve().parent}{os.pathsep}{os.environ['PATH']}"
    return _forge_serve(folder, file, asked, "llama-server")


@reader("llama-server")
def llama_server(folder: Path, file: Path, asked: Json) -> Json:
    """llama.cpp's own server, which is also what Ollama has run since 0.30."""
    program = _llama_server(asked)
    with _server(program, file, asked) as url:
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
        line = next(line for line in (told.stderr + told.stdout).splitlines() if line.startswith("version"))
        return {"version": line.removeprefix("version: ").split(" (")[0], **_llama_server(url, asked)}


@reader("xllamacpp")
def xllamacpp(folder: Path, file: Path, asked: Json) -> Json:
    """llama.cpp's server out of a PyPI wheel."""
    module = import_module("xllamacpp")
    params = module.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.warmup, params.use_jinja = str(file), asked["context"], 1, False, True
    params.cpuparams.n_threads = 1
    params.port = _free_port()
    server = module.Server(params)
    return {"version": module.__version__, **_llama_server(server.listening_address, asked)}


@reader("node-llama-cpp")
def node_llama_cpp(folder: Path, file: Path, asked: Json) -> Json:
    """Node's binding; for chat templates that it knows it has code of its own."""
    return _node(file, asked)


@reader("node-llama-cpp, its Jinja")
def node_llama_cpp_jinja(folder: Path, file: Path, asked: Json) -> Json:
    """The same with JinjaTemplateChatWrapper on the template inside the file."""
    return _node(file, asked, "jinja")


@reader("gpt4all")
def gpt4all(folder: Path, file: Path, asked: Json) -> Json:
    """A reader of 2024. Markers count only in the template that its caller gives, so that it is asked single questions."""
    model = import_module("gpt4all").GPT4All(file.name, model_path=str(file.parent), allow_download=False, device="cpu", n_threads=1, n_ctx=asked["context"], verbose=False)
    answers = []
    for turns, prompt in zip(asked["conversations"][:-1], asked["rendered"], strict=False):
        with model.chat_session(system_prompt="", prompt_template=prompt.replace(turns[-1]["content"], "{0}")):
            answers.append({"text": str(model.generate(turns[-1]["content"], temp=0, max_tokens=asked["limit"], repeat_penalty=1.0))})
    return {"version": version("gpt4all"), "answers": answers}


@reader("ctransformers")
def ctransformers(folder: Path, file: Path, asked: Json) -> Json:
    """A reader of September 2023, before version 3 of GGUF."""
    model = import_module("ctransformers").AutoModelForCausalLM.from_pretrained(str(file), model_type="llama", local_files_only=True, threads=1, context_length=asked["context"])
    tokens = [model.tokenize(text, add_bos_token=False) for text in asked["texts"]]
    answers = [{"text": model(prompt, temperature=0.0, top_k=1, repetition_penalty=1.0, max_new_tokens=asked["limit"])} for prompt in asked["rendered"]]
    return {"version": version("ctransformers"), "tokens": tokens, "answers": answers}


# --- what several readers share -----------------------------------------------------------------------------------------------


def _transformers(folder: Path, asked: Json, options: dict[str, str]) -> Json:
    import torch
    import transformers

    torch.set_num_threads(1)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, **options)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
    ends = {tokenizer.convert_tokens_to_ids(asked["stop"])}
    prompts, answers = [], []
    for turns in asked["conversations"]:
        prompts.append(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        ids = torch.tensor([tokenizer.encode(prompts[-1], add_special_tokens=False)])
        room = min(asked["limit"], asked["context"] - ids.shape[1])
        made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=room)[0, ids.shape[1] :].tolist()
        ended = bool(made) and made[-1] in ends
        answers.append({"text": tokenizer.decode(made[:-1] if ended else made), "ended": ended})
    tokens = [tokenizer.encode(text, add_special_tokens=False) for text in asked["texts"]]
    return {"version": transformers.__version__, "tokens": tokens, "prompts": prompts, "answers": answers}


def _node(file: Path, asked: Json, *more: str) -> Json:
    if not asked["node"]:
        raise ModuleNotFoundError("node-llama-cpp")
    command = ["node", str(Path(__file__).with_suffix(".mjs")), str(file), *more]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, cwd=asked["node"], timeout=SECONDS)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-200:])
    found: Json = json.loads(done.stdout.splitlines()[-1])
    return {**found, "version": f"{found['version']}, {found['wrapper']}"}


def _forge_serve(folder: Path, file: Path, asked: Json, engine: str) -> Json:
    """The shipped system prompt is left out of what is asked: the server has to add it. So is the sampling."""
    import threading

    from forge.phases.quantize.modelfile_lint import parse_modelfile
    from forge.phases.quantize.serving import serve

    with tempfile.TemporaryDirectory() as scratch:
        text = (folder / "Modelfile").read_text(encoding="utf-8")
        source = next(command.value for command in parse_modelfile(text) if command.name == "from")
        (Path(scratch) / "Modelfile").write_text(text.replace(f"FROM {source}", f"FROM {file}"), encoding="utf-8")
        server = serve(Path(scratch), name="bench", abstention="", port=0, engine=engine)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        talks = [[turn for turn in turns if turn["role"] != "system"] for turns in asked["conversations"]]
        answers = _ask(server.url, {**asked, "conversations": talks}, told=False)
        server.end()
    return {"version": "0.1.0", "answers": answers}


def _llama_server(url: str, asked: Json) -> Json:
    tokens = [_post(f"{url}/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"] for text in asked["texts"]]
    prompts = [_post(f"{url}/apply-template", {"messages": turns})["prompt"] for turns in asked["conversations"]]
    return {"tokens": tokens, "prompts": prompts, "answers": _ask(f"{url}/v1", asked, told=True)}


def _ask(url: str, asked: Json, *, told: bool) -> list[Json]:
    """Each conversation whole and as a stream, which must bring the same. told: the sampling is in the request, as it is not the server's."""
    answers = []
    sampling = {"temperature": 0, "top_k": 1, "repeat_penalty": 1.0, "max_tokens": asked["limit"], "cache_prompt": False} if told else {}
    for turns in asked["conversations"]:
        whole = _post(f"{url}/chat/completions", {"messages": turns, **sampling})["choices"][0]
        streamed = _stream(f"{url}/chat/completions", {"messages": turns, "stream": True, **sampling})
        if streamed.strip() != whole["message"]["content"].strip():
            raise RuntimeError(f"the stream says {streamed!r}, the whole answer is {whole['message']['content']!r}")
        answers.append({"text": whole["message"]["content"], "ended": whole["finish_reason"] == "stop"})
    return answers


def _post(url: str, body: Json) -> Json:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        found: Json = json.load(answer)
    return found


def _stream(url: str, body: Json) -> str:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    parts = []
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        for line in answer:
            if line.startswith(b"data: {"):
                choices = json.loads(line[6:])["choices"]
                parts += [choice["delta"].get("content") or "" for choice in choices]
    return "".join(parts)


@contextmanager
def _server(program: str, file: Path, asked: Json) -> Iterator[str]:
    port = _free_port()
    command = [program, "-m", str(file), "--jinja", "--host", "127.0.0.1", "--port", str(port), "-c", str(asked["context"]), "-np", "1", "-t", "1",
               "--no-webui", "--no-repack", "--offline"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(300):
            if process.poll() is not None:
                raise RuntimeError(f"llama-server ended with {process.returncode}")
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=5):
                    break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


# --- the comparison -----------------------------------------------------------------------------------------------------------


def main() -> None:
    """One table; or one reader on one file, for the process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--question", action="append")
    parser.add_argument("--node", default="")
    parser.add_argument("--llama-server", default="")
    parser.add_argument("--only", action="append", choices=sorted(READERS))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.one:
        print(json.dumps(READERS[told.one[0]](told.folder, Path(told.one[1]), json.load(sys.stdin))))
        return
    shipped = read_shipped(told.folder)
    tools = {"node": str(Path(told.node).resolve()) if told.node else "", "llama_server": told.llama_server}
    files = sorted((told.folder / "gguf").glob("*.gguf"))
    wanted = [(file, *reference(told.folder, file, shipped, tuple(told.question or QUESTIONS), tools)) for file in files]
    rows = [row(name, told.folder, wanted) for name in told.only or READERS]
    print("\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in (COLUMNS, ("---",) * len(COLUMNS), *rows)))


def reference(folder: Path, file: Path, shipped: Shipped, questions: tuple[str, ...], tools: Json) -> tuple[Json, Json]:
    """What is asked of every reader, and what it should say: slm-forge's llama.cpp on this file, transformers' tokenizer."""
    from transformers import AutoTokenizer

    from forge.phases.quantize.llama import Llama

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    system = [{"role": "system", "content": shipped.system}] if shipped.system else []
    conversations = [[*system, {"role": "user", "content": question}] for question in questions]
    with tempfile.TemporaryDirectory() as scratch, Llama(Path(scratch)) as llama:
        llama.open(file, context_tokens=shipped.context_tokens)

        def answer(turns: list[dict[str, str]]) -> Json:
            ids = tokenizer.encode(render(turns), add_special_tokens=False)
            made = llama.generate(ids, limit=shipped.answer_tokens)
            return {"text": made.text, "ended": made.ended}

        def render(turns: list[dict[str, str]]) -> str:
            return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

        answers = [answer(turns) for turns in conversations]
        conversations.append([*conversations[0], {"role": "assistant", "content": answers[0]["text"]}, {"role": "user", "content": questions[-1]}])
        answers.append(answer(conversations[-1]))
        prompts = [render(turns) for turns in conversations]
    texts = [*TEXTS, *prompts]
    asked = {
        **tools, "texts": texts, "conversations": conversations, "rendered": prompts, "limit": shipped.answer_tokens, "context": shipped.context_tokens,
        "stop": tokenizer.eos_token, "bos": tokenizer.bos_token or "",
    }
    return asked, {"tokens": [tokenizer.encode(text, add_special_tokens=False) for text in texts], "prompts": prompts, "answers": answers}


def row(name: str, folder: Path, wanted: list[tuple[Path, Json, Json]]) -> tuple[str, ...]:
    """A line of the table: how many of how many were right, over all files."""
    counts = {column: [0, 0] for column in COLUMNS[2:]}
    release = ""
    for file, asked, expected in wanted:
        found = run(name, folder, file, asked)
        counts["loads"][1] += 1
        if isinstance(found, str):
            print(f"{name}, {file.name}: {found}", flush=True)
            if found == "not installed":
                return (name, "not installed", *[""] * 5)
            continue
        counts["loads"][0] += 1
        release = str(found["version"])
        for column in ("tokens", "prompts"):
            pairs = list(zip(found.get(column, []), expected[column], strict=False))
            if column == "prompts":     # llama.cpp's server leaves the beginning-of-text token to its tokenizer
                pairs = [(one.removeprefix(asked["bos"]), other.removeprefix(asked["bos"])) for one, other in pairs]
            _count(counts[column], pairs, f"{name}, {file.name}, {column}")
        pairs = list(zip(found["answers"], expected["answers"], strict=False))
        _count(counts["answers"], [(one["text"].strip(), other["text"].strip()) for one, other in pairs], f"{name}, {file.name}, answers")
        _count(counts["ends"], [(one["ended"], other["ended"]) for one, other in pairs if "ended" in one], f"{name}, {file.name}, ends")
    return (name, release, *(f"{good}/{all_of}" if all_of else "not shown" for good, all_of in counts.values()))


def run(name: str, folder: Path, file: Path, asked: Json) -> Json | str:
    """What a reader found, or why it found nothing."""
    command = [sys.executable, __file__, str(folder), "--one", name, str(file.resolve())]
    try:
        done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, timeout=SECONDS, env={**os.environ, "OMP_NUM_THREADS": "1"})
    except subprocess.TimeoutExpired:
        return f"no answer in {SECONDS} s"
    if done.returncode < 0:
        return f"died with {signal.Signals(-done.returncode).name}"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no words"])[-1]
        return "not installed" if "ModuleNotFoundError" in last else last[:200]
    found: Json = json.loads(done.stdout.splitlines()[-1])
    return found


def _count(counter: list[int], pairs: list[tuple[Any, Any]], where: str) -> None:
    for found, expected in pairs:
        counter[0] += found == expected
        counter[1] += 1
        if found != expected:
            print(f"{where}:\n    {found!r}\n    {expected!r} expected", flush=True)


if __name__ == "__main__":
    main()
