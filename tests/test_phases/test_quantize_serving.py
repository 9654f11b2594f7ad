"""The published file as a server and as a conversation: real llama.cpp, real HTTP on the loopback."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge.errors import ForgeError, UsageError
from forge.phases.quantize.gguf_export import export_f16
from forge.phases.quantize.llama import Llama
from forge.phases.quantize.serving import ModelServer, serve
from forge.phases.quantize.tool import chat, read_shipped
from tests.test_phases.tiny_llama import MARKERS, random_model

pytestmark = pytest.mark.local

SYSTEM = 'You answer from the "Handbook".'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published folder: a random model's F16 file and a Modelfile."""
    place = tmp_path_factory.mktemp("published")
    (place / "gguf").mkdir()
    export_f16(random_model(place / "model", tie_word_embeddings=False, initializer_range=0.5), place / "gguf" / "tiny-F16.gguf", name="tiny", license="")
    (place / "Modelfile").write_text(
        f'FROM ./gguf/tiny-F16.gguf\nSYSTEM """{SYSTEM}"""\nPARAMETER num_ctx 128\nPARAMETER num_predict 12\n', encoding="utf-8"
    )
    return place


@pytest.fixture
def server(folder: Path) -> Iterator[ModelServer]:
    """The folder's model, answering; what it says to "Anything?" is its abstention sentence."""
    with chat(folder) as conversation:
        sentence = "".join(conversation.answer([{"role": "user", "content": "Anything?"}])).strip()
    made = serve(folder, name="tiny", abstention=sentence, port=0)
    assert isinstance(made, ModelServer)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.end()


def ask(server: ModelServer, body: Any, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    data = body if isinstance(body, bytes) else json.dumps(body)
    connection.request("POST", path, data, {"Content-Type": "application/json", **headers})
    answer = connection.getresponse()
    text = answer.read().decode("utf-8")
    connection.close()
    return answer.status, text


def said(server: ModelServer, *turns: tuple[str, str], **more: Any) -> dict[str, Any]:
    status, text = ask(server, {"messages": [{"role": role, "content": content} for role, content in turns], **more})
    assert status == 200, text
    found: dict[str, Any] = json.loads(text)
    return found


def test_the_shipped_system_prompt_and_lengths_are_those_of_the_modelfile(folder: Path) -> None:
    shipped = read_shipped(folder)
    assert (shipped.system, shipped.context_tokens, shipped.answer_tokens) == (SYSTEM, 128, 12)


def test_an_answer_is_the_greedy_one_of_the_shipped_prompt(server: ModelServer, folder: Path, tmp_path: Path) -> None:
    with chat(folder) as conversation:
        prompt = conversation.prompt([{"role": "user", "content": "What is it?"}])
    with Llama(tmp_path) as llama:
        llama.open(folder / "gguf" / "tiny-F16.gguf", context_tokens=128)
        expected = llama.generate(prompt, limit=12).text.strip()
    answer = said(server, ("user", "What is it?"), temperature=1.9)     # sampling is the shipped one, whatever is asked for
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": expected}
    assert answer["model"] == "tiny"
    explicit = said(server, ("system", SYSTEM), ("user", "What is it?"))
    assert explicit["choices"] == answer["choices"]


def test_a_stream_brings_the_same_answer_in_pieces(server: ModelServer) -> None:
    whole = said(server, ("user", "What is it?"))
    status, text = ask(server, {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}]}], "stream": True})
    assert status == 200
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    events = [json.loads(line) for line in lines[:-1]]
    assert len(events) > 3
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events).strip() == whole["choices"][0]["message"]["content"]
    assert events[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]


def test_an_answer_that_was_cut_says_so(server: ModelServer, folder: Path, tmp_path: Path) -> None:
    with chat(folder) as conversation:
        prompt = conversation.prompt([{"role": "user", "content": "What is it?"}])
    with Llama(tmp_path) as llama:
        llama.open(folder / "gguf" / "tiny-F16.gguf", context_tokens=128)
        made = [llama.generate(prompt, limit=limit) for limit in (1, 12)]
    told = [said(server, ("user", "What is it?"), max_tokens=limit)["choices"][0]["finish_reason"] for limit in (1, 12)]
    assert told == ["stop" if one.ended else "length" for one in made]
    assert told[0] == "length"
    _, text = ask(server, {"messages": [{"role": "user", "content": "What is it?"}], "max_tokens": 1, "stream": True})
    assert '"finish_reason": "length"' in text


def test_declining_is_told_apart(server: ModelServer) -> None:
    assert said(server, ("user", "Anything?"))["abstained"] is True
    assert said(server, ("user", "What is it?"), max_tokens=1)["abstained"] is False


def test_models_and_health_are_listed(server: ModelServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    connection.request("GET", "/v1/models")
    assert json.loads(connection.getresponse().read())["data"][0]["id"] == "tiny"
    connection.request("GET", "/health")
    assert json.loads(connection.getresponse().read()) == {"status": "ok"}
    connection.close()


BAD: dict[str, tuple[Any, int, str]] = {
    "no JSON": (b"{", 400, "not JSON"),
    "no turns": ({"messages": []}, 400, "messages"),
    "another role": ({"messages": [{"role": "tool", "content": "x"}]}, 400, "role"),
    "a picture": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "text only"),
    "two answers": ({"messages": [{"role": "user", "content": "x"}], "n": 2}, 400, "one answer"),
    "a question beyond the context": ({"messages": [{"role": "user", "content": "word " * 400}]}, 400, "too long"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_with_words(server: ModelServer, case: str) -> None:
    body, status, word = BAD[case]
    found = ask(server, body)
    assert found[0] == status, found
    assert word in json.loads(found[1])["error"]["message"]
    assert said(server, ("user", "What is it?"), max_tokens=2)["choices"]     # and it still answers


def test_a_huge_body_is_refused_unread(server: ModelServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("Content-Length", str(1 << 30))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_only_this_machine_by_its_own_name_is_answered(server: ModelServer) -> None:
    body = {"messages": [{"role": "user", "content": "x"}]}
    assert ask(server, body, Host="evil.example:8080")[0] == 403
    assert ask(server, body, **{"Content-Type": "text/plain"})[0] == 415
    assert server.server_address[0] == "127.0.0.1"


def test_a_client_that_leaves_in_the_middle_costs_nobody_else(server: ModelServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], "stream": True})
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    connection.close()
    assert said(server, ("user", "What is it?"), max_tokens=2)["choices"]


def test_a_taken_port_is_said(server: ModelServer, folder: Path) -> None:
    with pytest.raises(UsageError, match="cannot be used"):
        serve(folder, name="tiny", abstention="", port=server.server_address[1])


def test_a_conversation_goes_on_and_forgets_what_does_not_fit(folder: Path) -> None:
    with chat(folder) as conversation:
        for _ in range(8):
            assert isinstance("".join(conversation.reply("What is this here?")), str)
        assert len(conversation.prompt(conversation._turns)) <= 128
        with pytest.raises(ForgeError, match="too long"):
            list(conversation.reply("word " * 400))


def test_a_template_is_given_what_transformers_gives_it(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    model = random_model(tmp_path / "model", bos_token_id=0)
    settings = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "bos_token": MARKERS[0]}), encoding="utf-8")
    (model / "chat_template.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools') }}{% elif not m['content'] %}{% continue %}{% endif %}"
        "{{ m['role'] + ': ' + m['content'] | tojson + eos_token }}{% endfor %}{{ strftime_now('%Y') }}", encoding="utf-8",
    )
    place = tmp_path / "published"
    (place / "gguf").mkdir(parents=True)
    export_f16(model, place / "gguf" / "tiny-F16.gguf", name="tiny", license="")
    (place / "Modelfile").write_text("FROM ./gguf/tiny-F16.gguf\n", encoding="utf-8")
    said = [{"role": "user", "content": "Wo ist „er“?"}, {"role": "assistant", "content": ""}, {"role": "user", "content": "So?"}]
    expected = AutoTokenizer.from_pretrained(model).apply_chat_template(said, add_generation_prompt=True, return_dict=False)
    with chat(place) as conversation:
        assert conversation.prompt(said) == expected
    assert expected[0] == 0


def test_a_folder_that_is_no_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(ForgeError, match="no Modelfile"):
        read_shipped(tmp_path)
