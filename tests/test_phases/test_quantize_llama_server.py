"""`forge serve --engine llama-server`: what llama.cpp's server is told, and that its process never outlives us.

The real program is started where it is on PATH (by hand: bench/publish/readers.py); else a stand-in that listens and writes down what it was told.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import jinja2
import pytest

from forge.cli.chatting import serve as serve_run
from forge.errors import ForgeError, MissingAccess, UsageError
from forge.phases.quantize.gguf_export import export_f16
from forge.phases.quantize.llama_server import LlamaServer, command_line, template_with_system
from forge.phases.quantize.serving import ModelServer, serve
from forge.phases.quantize.tool import Shipped, chat
from tests.test_phases.tiny_llama import TEMPLATE, random_model

pytestmark = pytest.mark.local

SYSTEM = 'You answer from the "Handbook" \\ only.\nÜber {{ nothing }} else.'
STAND_IN = """#!{python}
import http.server, json, os, sys
told = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if os.environ.get("STAND_IN_FAILS"):
    sys.exit("error: failed to load model")
told["template"] = open(told["--chat-template-file"], encoding="utf-8").read()
told["pid"], told["cors"] = os.getpid(), os.environ["LLAMA_ARG_CORS_ORIGINS"]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        data = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, *args):
        pass
http.server.HTTPServer(("127.0.0.1", int(told["--port"])), Handler).serve_forever()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A published folder: a GGUF file with little but a chat template, and a Modelfile."""
    import gguf
    import numpy as np

    (tmp_path / "published" / "gguf").mkdir(parents=True)
    writer = gguf.GGUFWriter(tmp_path / "published" / "gguf" / "tiny-F16.gguf", "llama")
    writer.add_chat_template(TEMPLATE)
    writer.add_tensor("token_embd.weight", np.zeros((1, 32), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (tmp_path / "published" / "Modelfile").write_text(
        f'FROM ./gguf/tiny-F16.gguf\nSYSTEM """{SYSTEM}"""\nPARAMETER num_ctx 128\nPARAMETER num_predict 12\n', encoding="utf-8"
    )
    return tmp_path / "published"


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called llama-server, alone on PATH."""
    program = tmp_path / "bin" / "llama-server"
    program.parent.mkdir()
    program.write_text(STAND_IN.format(python=sys.executable), encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return program


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)


def test_the_command_has_the_shipped_settings() -> None:
    shipped = Shipped(file=Path("gguf/x.gguf"), system=SYSTEM, context_tokens=256, answer_tokens=64)
    command = command_line("llama-server", shipped, Path("t.jinja"), name="x", port=8080)
    assert " ".join(command) == (
        "llama-server --model gguf/x.gguf --alias x --host 127.0.0.1 --port 8080 --chat-template-file t.jinja --reasoning-format none"
        " --ctx-size 1024 --parallel 4 --n-predict 64 --temp 0 --top-k 1 --repeat-penalty 1.0 --jinja --no-repack --no-webui"
    )


def test_turns_without_a_system_prompt_get_the_shipped_one() -> None:
    def render(template: str, *turns: dict[str, str]) -> str:
        environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
        return environment.from_string(template).render(messages=list(turns), add_generation_prompt=True)

    system, ask = {"role": "system", "content": SYSTEM}, {"role": "user", "content": "What?"}
    own = {"role": "system", "content": "Another."}
    for template in (TEMPLATE, "\n" + TEMPLATE):
        told = template_with_system(template, SYSTEM)
        assert render(told, ask) == render(template, system, ask)
        assert render(told, own, ask) == render(template, own, ask)
    assert template_with_system(TEMPLATE, "") == TEMPLATE


def test_the_server_runs_until_it_is_ended(stand_in: Path, folder: Path) -> None:
    server = serve(folder, name="tiny", abstention="", port=0, engine="llama-server")
    assert isinstance(server, LlamaServer)
    told = get(server.url)
    assert (told["--alias"], told["--ctx-size"], told["cors"]) == ("tiny", "512", "localhost")
    assert told["template"] == template_with_system(TEMPLATE, SYSTEM)
    server.end()
    assert server.process.returncode == -signal.SIGTERM
    assert not Path(told["--chat-template-file"]).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells a child of its parent's death on Linux only")
def test_it_ends_with_us_even_when_we_are_killed(stand_in: Path, folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from forge.phases.quantize.llama_server import LlamaServer\n"
        "server = LlamaServer(Path(sys.argv[1]), name='tiny', port=0); print(server.process.pid, flush=True); server.serve_forever()"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 30
    while _lives(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _lives(child)


def test_a_server_that_dies_is_told_with_its_last_words(stand_in: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(folder, name="tiny", abstention="", port=0, engine="llama-server")
    assert isinstance(server, LlamaServer)
    server.process.kill()
    with pytest.raises(ForgeError, match="ended with SIGKILL while answering"):
        server.serve_forever(poll_interval=0.01)
    server.end()
    monkeypatch.setenv("STAND_IN_FAILS", "1")
    with pytest.raises(ForgeError, match="ended with code 1 while starting") as error:
        serve(folder, name="tiny", abstention="", port=0, engine="llama-server")
    assert "failed to load model" in str(error.value.why)


def test_a_missing_program_and_a_taken_port_are_said(stand_in: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(folder, name="tiny", abstention="", port=0, engine="llama-server")
    assert isinstance(server, LlamaServer)
    with pytest.raises(UsageError, match="cannot be used"):
        serve(folder, name="tiny", abstention="", port=server.port, engine="llama-server")
    server.end()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingAccess, match="not on PATH"):
        serve(folder, name="tiny", abstention="", port=0, engine="llama-server")
    with pytest.raises(UsageError, match='no engine "ollama"') as error:
        serve_run("", 0, engine="ollama", as_json=False)
    assert error.value.why == "known: forge, llama-server"


@pytest.mark.skipif(not shutil.which("llama-server"), reason="llama-server is not on PATH: tried by hand, bench/publish/readers.py")
def test_the_real_server_answers_as_ours_does(folder: Path, tmp_path: Path) -> None:
    model = random_model(tmp_path / "model", tie_word_embeddings=False, initializer_range=0.5)
    export_f16(model, folder / "gguf" / "tiny-F16.gguf", name="tiny", license="")
    with chat(folder) as conversation:
        expected = "".join(conversation.answer([{"role": "user", "content": "What is it?"}])).strip()
    server = serve(folder, name="tiny", abstention="", port=0, engine="llama-server")
    assert not isinstance(server, ModelServer)
    body = json.dumps({"messages": [{"role": "user", "content": "What is it?"}], "temperature": 1.9}).encode()
    request = urllib.request.Request(f"{server.url}/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.load(answer)["choices"][0]["message"]["content"].strip() == expected
    server.end()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="ascii")
