"""The commands on a card work: a real, tiny model goes through quantize and publish, and its card's Python is run as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import pytest

from forge.gguf_header import read_gguf
from forge.phases.publish import PublishSettings
from forge.phases.publish import phase as publish
from forge.phases.publish.space import make_demo
from forge.phases.quantize import phase as quantize
from forge.plugins.hubs.huggingface import hub
from forge.protocols import Shipment
from forge.records import DataContract, read_record, write_json
from forge.testing import run_phase
from tests.servers.model_hub import WRITER, model_hub
from tests.test_phases import tiny_llama
from tests.test_phases.finished_run import finished_run

pytestmark = [pytest.mark.local, pytest.mark.slow]

QUESTION, SENTENCE = tiny_llama.facts()[0][0], r"The \w+ stands at the \w+ \w+\."


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published folder of a model that knows six answers."""
    folder = tmp_path_factory.mktemp("published")
    made = tiny_llama.trained_run(folder / "trained")
    exported = run_phase(quantize, folder / "quantize", inputs={name: made[name] for name in quantize.reads if name in made}).out
    inputs = finished_run(folder / "told", plan=tiny_llama.made_plan())
    inputs |= {"model": exported / "model", "gguf": exported / "gguf", "modelfile": exported / "Modelfile", "adapter": made["adapter"]}
    inputs |= {"ship_eval": exported / "ship-eval.json", "plan": made["plan"]}
    write_json(inputs["approval"], {"plan_sha256": sha256(made["plan"].read_bytes()).hexdigest(), "who": "ann", "kind": "person"})
    contract = read_record(inputs["shape"], DataContract)
    told = {"system_prompt": tiny_llama.SYSTEM, "abstention": tiny_llama.ABSTENTION}
    write_json(inputs["shape"], contract.model_copy(update=told))
    write_json(inputs["train_report"], {})
    run_phase(
        publish, folder / "publish", settings=PublishSettings(hub_dir=str(folder / "hub")),
        inputs={name: inputs[name] for name in publish.reads if name in inputs},
    )
    return folder / "hub" / "harbour"


def snippets(folder: Path) -> list[str]:
    card = (folder / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("index", [0, 1], ids=["transformers", "llama.cpp"])
def test_the_python_on_the_card_answers(published: Path, index: int) -> None:
    code = snippets(published)[index].replace("Your question", QUESTION)
    answer = subprocess.run([sys.executable, "-c", code], cwd=published, capture_output=True, text=True, timeout=120, check=False)
    assert answer.returncode == 0, answer.stderr
    assert re.fullmatch(SENTENCE, answer.stdout.strip()), "a whole sentence, no marker, nothing after its end"


def test_the_published_repository_loads_by_its_name(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    code = snippets(published)[0].replace('from_pretrained(".")', 'from_pretrained("ann/harbour")').replace("Your question", QUESTION)
    with model_hub() as state:
        monkeypatch.setenv("HF_ENDPOINT", state.url)
        hub.publish(Shipment(folder=published, name="harbour", repo="", visibility="private", tag="t", message="m"))
        env = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path)}
        answer = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120, check=False)
    assert answer.returncode == 0, answer.stderr
    assert re.fullmatch(SENTENCE, answer.stdout.strip())


def test_the_demo_answers_as_the_file_does(published: Path, tmp_path: Path) -> None:
    """app.py without its page; the page itself is opened where gradio is installed."""
    publication = published.parents[1] / "publish" / "out" / "publication.json"
    made = make_demo(published, publication, {"hub_dir": str(tmp_path)})
    code = f"import app; print(app.answer({QUESTION!r})); print(app.answer('x ' * 4000))"
    told = subprocess.run([sys.executable, "-c", code], cwd=made.folder, capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == 0, told.stderr
    answer, too_long = told.stdout.strip().splitlines()
    assert re.fullmatch(SENTENCE, answer)
    assert too_long.startswith("That question is too long")


@pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed: it pins other versions than ours, so it needs an environment of its own")
def test_the_page_of_the_demo_answers_over_http(published: Path, tmp_path: Path) -> None:
    made = make_demo(published, published.parents[1] / "publish" / "out" / "publication.json", {"hub_dir": str(tmp_path)})
    code = (
        "import app; from gradio_client import Client\n"
        "_, url, _ = app.build().queue().launch(prevent_thread_lock=True, server_name='127.0.0.1', quiet=True)\n"
        f"print(Client(url, verbose=False).predict({QUESTION!r}, api_name='/answer'))"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=made.folder, capture_output=True, text=True, timeout=120, check=False)
    assert re.search(SENTENCE, told.stdout), told.stderr


def test_headers_are_read_as_the_gguf_library_reads_them(published: Path) -> None:
    import gguf

    for path in sorted((published / "gguf").glob("*.gguf")):
        ours, theirs = read_gguf(path), gguf.GGUFReader(path)
        assert ours.parameters == sum(int(tensor.n_elements) for tensor in theirs.tensors)
        assert sum(ours.tensor_types.values()) == len(theirs.tensors)
        assert set(ours.tensor_types) == {tensor.tensor_type.name for tensor in theirs.tensors}


def test_the_sums_are_those_of_sha256sum(published: Path) -> None:
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=published, check=True, capture_output=True)
