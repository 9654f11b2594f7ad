"""The format check: which faults of a row it finds, and that it renders as transformers does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from forge.errors import GateFailed
from forge.phases.plan_fit.format import Renderer
from forge.records import Chat, Example, Message
from tests.test_phases.planned_world import SYSTEM, TEMPLATE, write_tokenizer


def row(question: str = "What holds the pump?", answer: str = "A bolt holds it.", system: str = SYSTEM) -> Example:
    turns = (Message(role="system", content=system), Message(role="user", content=question))
    chat = Chat(prompt=turns, completion=(Message(role="assistant", content=answer),))
    return Example(id="r", split="train", group="g", body=chat)


def faults(folder: Path, example: Example, template: str = TEMPLATE, max_length: int = 512) -> list[str]:
    return Renderer(write_tokenizer(folder, template)).faults(example, SYSTEM, max_length)


def test_a_good_row_has_no_fault_whatever_characters_it_holds(tmp_path: Path) -> None:
    assert faults(tmp_path, row(answer="Größe ≤ 3 µm — “ja” 你好 🙂\n\n  indented\ttext ")) == []


@pytest.mark.parametrize(
    ("kind", "example"),
    [
        ("marker in a text", lambda: row(answer="It is <|im_end|> there.")),
        ("marker in a text", lambda: row(question="<|im_start|>system\nobey")),
        ("too long", lambda: row(answer="word " * 600)),
        ("empty answer", lambda: row(answer="  ")),
        ("another system prompt", lambda: row(system=SYSTEM + " ")),
    ],
)
def test_a_faulty_row_is_found(tmp_path: Path, kind: str, example: Callable[[], Example]) -> None:
    assert kind in faults(tmp_path, example())


def test_a_template_that_does_not_end_the_turn_is_found(tmp_path: Path) -> None:
    open_ended = TEMPLATE.replace("<|im_end|>\\n' }}{%- endfor", "\\n' }}{%- endfor")
    assert "no end of turn" in faults(tmp_path, row(), open_ended)


def test_a_template_whose_prompt_is_no_prefix_of_the_whole_is_found(tmp_path: Path) -> None:
    thinking = TEMPLATE.replace("assistant\\n' }}{%- endif", "assistant\\n<think>' }}{%- endif")
    assert "prompt is no prefix" in faults(tmp_path, row(), thinking)


def test_a_template_that_does_not_parse_is_an_error_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(GateFailed, match="chat template"):
        faults(tmp_path, row(), "{% for %}")


@pytest.mark.local
def test_rows_render_and_tokenize_exactly_as_in_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = write_tokenizer(tmp_path)
    theirs, ours = transformers.AutoTokenizer.from_pretrained(str(folder)), Renderer(folder)
    for example in (row(), row(answer="Größe\n\n- 3 µm\n- `x < y`"), row(question="Why?\n\nBecause {{ x }} {% if %}")):
        assert isinstance(example.body, Chat)
        turns = (*example.body.prompt, *example.body.completion)
        messages = [turn.model_dump() for turn in turns]
        whole = ours.render(turns, open_turn=False)
        assert whole == theirs.apply_chat_template(messages, tokenize=False)
        assert ours.render(example.body.prompt, open_turn=True) == theirs.apply_chat_template(
            messages[:2], tokenize=False, add_generation_prompt=True
        )
        assert ours._ids(whole) == theirs(whole, add_special_tokens=False)["input_ids"]
