"""Checks a staged publication against the facts, recomputed from its files; the card is compared, never believed.

Each rule is a function (Staged) -> problems. `RULES` is the list; tests show every rule a bad fixture.
"""

from __future__ import annotations

import ast
import difflib
import json
import math
import re
import tempfile
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path

import yaml

from forge.errors import ForgeError
from forge.gguf_header import read_gguf
from forge.phases.publish.card import NOT_EVALUATED, model_index_entry, render_card
from forge.phases.publish.facts import count_parameters
from forge.phases.publish.headers import metadata_text
from forge.phases.publish.leaks import find_machine_paths, find_secrets
from forge.phases.publish.licence import HUB_LICENCES
from forge.phases.publish.modelfile import ollama_files, parse_modelfile
from forge.phases.publish.numbers import unknown_numbers
from forge.phases.publish.staged import Staged, split_card
from forge.store import hash_file

SECTIONS = (
    "What it is", "Intended use", "Out of scope", "How to use", "Training data", "Training procedure",
    "Environmental and dollar cost", "Evaluation",
    "The shipped files", "Limitations", "Provenance", "Licence",
)

PLACEHOLDER = re.compile(
    r"\{\{|\}\}|\{%|%\}|\bNone\b|\bnan\b|\bNaN\b|\bundefined\b|\bTODO\b|\bTBD\b|\bFIXME\b|\bXXX\b|More Information Needed"
    r"|\|\s*\?\s*\||(?<=\s)\?(?=\s)|\(missing\)|lorem ipsum", re.MULTILINE,
)

SLUG_SIZE = re.compile(r"(?<![a-z0-9])(\d+(?:\.\d+)?)([kmb])(?![a-z0-9])", re.IGNORECASE)
BODY_SIZE = re.compile(r"(\d[\d,]*(?:\.\d+)?)\s*(k|thousand|m|million|b|billion)?\s+parameters\b", re.IGNORECASE)
PARAMETERS_LINE = re.compile(r"\*\*Parameters:\*\* ([\d,]+)")
FACTORS = {"": 1, "k": 1e3, "thousand": 1e3, "m": 1e6, "million": 1e6, "b": 1e9, "billion": 1e9}
SIZE_TOLERANCE = 0.15
"""A name may round: "7b" for 7.6 billion passes, "0m" or "3b" for 7.6 billion does not."""

VARIANT = 0.9
"""difflib ratio from which a line counts as a corrupted copy of the abstention sentence."""

BINARY = {".safetensors", ".gguf"}


def validate(staged: Staged) -> list[str]:
    """Every problem of every rule, each beginning with the rule's name. An empty list means publishable."""
    return [f"{rule.__name__}: {problem}" for rule in RULES for problem in rule(staged)]


def front_matter_parses(staged: Staged) -> list[str]:
    """The metadata is delimited, is YAML, and names the library and the task."""
    if not split_card(staged.card)[0]:
        return ["the card has no front matter between --- lines"]
    missing = [key for key in ("license", "library_name", "pipeline_tag", "tags") if not staged.meta.get(key)]
    return [f"the front matter lacks {key}" for key in missing]


def license_is_known(staged: Staged) -> list[str]:
    """The id is one that hubs know, is the one decided on, and `other` says its name and where the terms are."""
    meta, problems = staged.meta, []
    if meta.get("license") not in HUB_LICENCES:
        problems.append(f"{meta.get('license')!r} is not a licence id")
    if meta.get("license") == "other" and not (meta.get("license_name") and meta.get("license_link")):
        problems.append('"other" needs license_name and license_link')
    if meta.get("license") != staged.licence.id:
        problems.append(f"the card says {meta.get('license')!r}; the model is under {staged.licence.id!r}")
    return problems


def base_is_true(staged: Staged) -> list[str]:
    """base_model is the planned base; a model from scratch names none."""
    plan, named = staged.facts.plan, staged.meta.get("base_model")
    wanted = None if plan.base == "scratch" else plan.base
    return [] if named == wanted else [f"the card names the base {named!r}; the plan says {plan.base!r}"]


def parameters_are_true(staged: Staged) -> list[str]:
    """The weights in the files are counted again; every number of parameters in name, card and reports must agree."""
    real, facts = count_parameters(staged.folder), staged.facts
    problems = [
        f"{where} says {told:,} parameters; the weights hold {real:,}"
        for where, told in (("train.json", facts.reported_parameters), ("the facts", facts.parameters))
        if told not in (None, real)
    ]
    stated = PARAMETERS_LINE.search(staged.body)
    if stated is None or int(stated.group(1).replace(",", "")) != real:
        problems.append(f'the card\'s "Parameters:" line does not say {real:,}')
    named = list(SLUG_SIZE.finditer(facts.plan.name))[-1:]   # the last one: "route-66b-handbook-2m" is a 2m
    problems += [
        f'"{match.group(0)}" does not describe {real:,} parameters'
        for match in (*named, *BODY_SIZE.finditer(staged.body)) if _far(match, real)
    ]
    problems += [
        f"{file.name} says {file.parameters:,} parameters; its header {facts.gguf[file.name].parameters:,}"
        for file in facts.shipped if file.parameters and not _near(file.parameters, facts.gguf[file.name].parameters)
    ]
    return problems


def files_are_true(staged: Staged) -> list[str]:
    """Every file that the card lists exists with that size and hash, and no model file is left out."""
    rows = re.findall(r"^\| `([^`]+)` \| (\S+) \| ([\d,]+) \|.*\| `([0-9a-f]{64})` \|$", staged.body, re.MULTILINE)
    problems = []
    for name, _, size, sha256 in rows:
        file = staged.folder / name
        if not file.is_file():
            problems.append(f"the card lists {name}, which is not published")
        elif file.stat().st_size != int(size.replace(",", "")) or hash_file(file) != sha256:
            problems.append(f"{name} has another size or hash than the card says")
    listed, real = {row[0] for row in rows}, {f"gguf/{file.name}" for file in (staged.folder / "gguf").glob("*")}
    problems += [f"{name} is published but not in the card" for name in sorted(real - listed)]
    measured = {file.path: file.sha256 for file in staged.facts.shipped}
    problems += [f"{row[0]} is not the measured file" for row in rows if measured.get(row[0]) != row[3]]
    return problems


def headers_are_readable(staged: Staged) -> list[str]:
    """Smoke test: each GGUF says its architecture and an end-of-turn token; the checkpoint's tensors are complete."""
    problems = []
    for path in sorted((staged.folder / "gguf").glob("*.gguf")):
        try:
            header = read_gguf(path)
        except ForgeError as error:
            problems.append(f"{error.fact} ({error.why})")
            continue
        absent = [key for key in ("general.architecture", "tokenizer.ggml.eos_token_id") if key not in header.values]
        problems += [f"{path.name} lacks {key}" for key in absent]
    try:
        count_parameters(staged.folder)
    except ForgeError as error:
        problems.append(f"{error.fact} ({error.why})")
    return problems


def no_placeholders(staged: Staged) -> list[str]:
    """Nothing that a template or a missing value leaves behind."""
    prose = _without_quotes(staged)
    found = {(match.group(0), _line_of(prose, match.start())) for match in PLACEHOLDER.finditer(prose)}
    return [f'{_where(staged, line)} contains {text!r} in "{line}"' for text, line in sorted(found)]


def sections_are_there(staged: Staged) -> list[str]:
    """Each required section exists once and has text."""
    parts = re.split(r"^## (.+)$", staged.body, flags=re.MULTILINE)
    texts = {title.strip(): text.strip() for title, text in zip(parts[1::2], parts[2::2], strict=True)}
    return [f'the section "{name}" is missing or empty' for name in SECTIONS if not texts.get(name)]


def verdict_comes_first(staged: Staged) -> list[str]:
    """The first line says what is not good about the model."""
    first = next((text for text in staged.body.splitlines() if text.strip()), "")
    wanted = staged.decision.first_line
    if wanted and wanted not in first:
        return [f"the first line does not say: {wanted}"]
    if staged.decision.quality != "pass" and not wanted:
        return [f"quality is {staged.decision.quality}, and the card begins without saying so"]
    return []


def numbers_are_measured(staged: Staged) -> list[str]:
    """The model-index holds exactly the estimates of eval.json and ship-eval.json, all finite."""
    facts, told = staged.facts, []
    for model in staged.meta.get("model-index") or []:
        told += [(metric["type"], metric["value"]) for result in model["results"] for metric in result["metrics"]]
    measured = (model_index_entry("", verdicts) for verdicts in (facts.eval_verdicts, facts.ship_verdicts))
    wanted = [(metric["type"], metric["value"]) for entry in measured for metric in entry["metrics"]]
    problems = [] if told == wanted else ["the model-index differs from the measured verdicts"]
    problems += [f"{name} is {value}" for name, value in told if not math.isfinite(value)]
    published = json.loads((staged.folder / "eval.json").read_text(encoding="utf-8"))
    if published != facts.eval_json:
        problems.append("the published eval.json is not the measured one")
    if not wanted and NOT_EVALUATED not in staged.body:
        problems.append(f'nothing was measured, and the card does not say "{NOT_EVALUATED}"')
    return problems


def card_numbers_are_in_the_artifacts(staged: Staged) -> list[str]:
    """Each number in the prose and the tables is one of the artifacts, whatever wrote it there."""
    return [f"README.md:{line}: no artifact has {told}: {text[:80]}" for line, told, text in unknown_numbers(staged)]


def card_says_what_the_artifacts_say(staged: Staged) -> list[str]:
    """Line for line what the artifacts give; a card that was changed by hand is named with its line."""
    wanted = render_card(staged.facts, staged.decision, staged.licence).splitlines()
    found = staged.card.splitlines()
    problems = []
    for kind, first, last, other, end in difflib.SequenceMatcher(None, wanted, found, autojunk=False).get_opcodes():
        if kind != "equal":
            told = f"says {found[other].strip()[:60]!r}" if other < end else "lacks a line"
            right = f"the artifacts say {wanted[first].strip()[:60]!r}" if first < last else "the artifacts say nothing there"
            problems.append(f"README.md:{other + 1}: {told}; {right}")
    return problems


def modelfile_is_the_measured_one(staged: Staged) -> list[str]:
    """The published Modelfile is the one that quantize linted, line for line, and so is what `ollama run hf.co/...` reads."""
    found = (staged.folder / "Modelfile").read_text(encoding="utf-8").splitlines()
    problems = [
        f"Modelfile:{line}: says {told.strip()[:60]!r}; measured was {wanted.strip()[:60]!r}"
        for line, (told, wanted) in enumerate(zip_longest(found, staged.facts.modelfile_text.splitlines(), fillvalue=""), 1) if told != wanted
    ]
    for name, text in ollama_files(staged.facts.modelfile).items():
        file = staged.folder / name
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            problems.append(f"{name}: is not what the Modelfile says")
    return problems


def abstention_is_identical(staged: Staged) -> list[str]:
    """The one sentence is byte-identical in plan, data contract and card, and not corrupted in the Modelfile."""
    facts = staged.facts
    sentence, problems = facts.plan.abstention, []
    if facts.shape.abstention != sentence:
        problems.append("the training rows' sentence differs from the plan's")
    if not sentence:   # labels and extractions have none
        return problems
    if f"```text\n{sentence}\n```" not in staged.body:
        problems.append("the card does not quote the plan's sentence")
    text = (staged.folder / "Modelfile").read_text(encoding="utf-8")
    problems += [
        f"the Modelfile has a variant: {line}"
        for line in text.splitlines() if sentence not in line and _similar(line, sentence)
    ]
    if sentence in facts.plan.system_prompt and sentence not in text:
        problems.append("the Modelfile lacks the sentence that the system prompt contains")
    return problems


def prompt_is_identical(staged: Staged) -> list[str]:
    """The system prompt of training ships, byte for byte."""
    prompt, problems = staged.facts.plan.system_prompt, []
    shipped = parse_modelfile((staged.folder / "Modelfile").read_text(encoding="utf-8")).system
    if staged.facts.shape.system_prompt != prompt:
        problems.append("the training rows' system prompt differs from the plan's")
    if shipped and shipped != prompt:
        problems.append("the Modelfile's SYSTEM differs from the plan's system prompt")
    if f"```text\n{prompt}\n```" not in staged.body:
        problems.append("the card does not quote the plan's system prompt")
    return problems


def modelfile_works(staged: Staged) -> list[str]:
    """FROM names a published file, the card's sampling is the Modelfile's, and no SYSTEM is rendered twice."""
    modelfile = parse_modelfile((staged.folder / "Modelfile").read_text(encoding="utf-8"))
    target = staged.folder / modelfile.source
    inside = target.resolve().is_relative_to(staged.folder.resolve())
    problems = []
    if not (modelfile.source and inside and target.is_file()):
        problems.append(f"FROM {modelfile.source!r} is not a published file")
    line = re.search(r"^Sampling that the Modelfile sets:(.*)\.$", staged.body, re.MULTILINE)
    told = dict(pair.split(" ", 1) for pair in re.findall(r"`([^`]+ [^`]+)`", line.group(1))) if line else {}
    if told != modelfile.sampling:
        problems.append(f"the card declares the sampling {told}; the Modelfile sets {modelfile.sampling}")
    if ".Messages" in modelfile.template and ".System" in modelfile.template:
        problems.append("TEMPLATE renders the system prompt twice (.System is already in .Messages)")
    return problems


def snippets_work(staged: Staged) -> list[str]:
    """Python snippets compile; every local path that a snippet names is published."""
    problems = []
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```$", staged.body, re.MULTILINE | re.DOTALL):
        if language == "python":
            try:
                ast.parse(code)
            except SyntaxError as error:
                problems.append(f"a Python snippet does not compile: {error.msg}")
        if language != "text":
            named = re.findall(r"(?<![\w/])(?:\./)?((?:gguf|adapter)/[\w.@+-]+|Modelfile)\b", code)
            absent = [name for name in named if not (staged.folder / name).exists()]
            problems += [f"a snippet names {name}, which is not published" for name in absent]
    return problems


def nothing_leaks(staged: Staged) -> list[str]:
    """No credential and no folder of a machine in any file: texts, and what weights say in their headers."""
    problems = []
    for path in sorted(staged.folder.rglob("*")):
        if not path.is_file():
            continue
        name, text = path.relative_to(staged.folder).as_posix(), _text_in(path)
        quotes_a_corpus = name in ("eval.json", "ship-eval.json")   # evidence may quote "/var/log" from a document
        problems += [f"{name} contains a secret: {kind}" for kind in find_secrets(text, quotes_a_corpus=quotes_a_corpus)]
        own = [str(root) for root in (Path.home(), Path.cwd(), Path(tempfile.gettempdir())) if len(root.parts) > 1]
        paths = [root for root in own if root in text] if quotes_a_corpus else find_machine_paths(text)
        problems += [f"{name} contains the machine path {path}" for path in paths]
    return problems


RULES: tuple[Callable[[Staged], list[str]], ...] = (
    front_matter_parses, license_is_known, base_is_true, parameters_are_true, files_are_true, headers_are_readable,
    no_placeholders, sections_are_there, verdict_comes_first, numbers_are_measured, card_numbers_are_in_the_artifacts,
    card_says_what_the_artifacts_say, abstention_is_identical, prompt_is_identical, modelfile_works, modelfile_is_the_measured_one,
    snippets_work, nothing_leaks,
)


def _without_quotes(staged: Staged) -> str:
    """The card without code and without the quoted prompt, which are not ours to judge."""
    body = re.sub(r"^```.*?^```$", "", staged.body, flags=re.MULTILINE | re.DOTALL)
    for quoted in (staged.decision.first_line, staged.decision.headline):
        body = body.replace(quoted, "") if quoted else body
    return f"{yaml.safe_dump(staged.meta)}\n{body}"


def _text_in(path: Path) -> str:
    """A file's text; of weights their metadata. A damaged header has none: headers_are_readable tells of it."""
    if path.suffix not in BINARY:
        return path.read_text(encoding="utf-8", errors="replace")
    try:
        return "\n".join(str(value) for value in read_gguf(path).values.values()) if path.suffix == ".gguf" else metadata_text(path)
    except ForgeError:
        return ""


def _where(staged: Staged, line: str) -> str:
    """README.md:LINE of a line's beginning, or the file alone when it is not found."""
    number = next((number for number, text in enumerate(staged.card.splitlines(), 1) if line and line in text), 0)
    return f"README.md:{number}" if number else "README.md"


def _line_of(text: str, position: int) -> str:
    return text[text.rfind("\n", 0, position) + 1:].split("\n", 1)[0].strip()[:60]


def _far(match: re.Match[str], real: int) -> bool:
    told = float(match.group(1).replace(",", "")) * FACTORS[(match.group(2) or "").lower()]
    return not _near(told, real, SIZE_TOLERANCE)


def _near(told: float, real: float, tolerance: float = 0.001) -> bool:
    return abs(told - real) <= tolerance * real


def _similar(line: str, sentence: str) -> bool:
    matcher = difflib.SequenceMatcher(None, line.strip(), sentence, autojunk=False)
    return matcher.quick_ratio() >= VARIANT and matcher.ratio() >= VARIANT
