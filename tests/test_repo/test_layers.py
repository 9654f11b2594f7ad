"""forge <- phases, forge <- plugins; heavy libraries are imported where they are used; only ui prints."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINE_MAY = {"pydantic", "typer", "click", "rich", "yaml", "forge"}
HEAVY = {
    "torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "accelerate", "boto3", "anthropic", "pymupdf", "pypdfium2",
    "llama_cpp", "gguf", "huggingface_hub", "httpx2", "datasketch", "presidio_analyzer", "spacy", "numpy", "sklearn", "lxml", "docx", "pptx", "xxhash", "py3langid",
    "mlflow", "sqlalchemy", "psycopg", "pymysql", "pymongo", "bson", "duckdb", "botocore", "clickhouse_connect", "snowflake", "google", "cassandra",
    "pydicom", "h5py", "shapefile", "tifffile",
    "tokenizers", "safetensors", "charset_normalizer", "PIL", "pillow_heif", "av", "faster_whisper", "rapidocr", "onnxruntime", "py7zr", "rarfile", "backports", "oxmsg", "compressed_rtf", "python_calamine", "pyarrow",
}


def sources() -> list[Path]:
    found = [path for layer in ("forge", "phases", "plugins") for path in (ROOT / layer).rglob("*.py")]
    return [path for path in found if not any(parent.is_symlink() for parent in path.parents if parent != ROOT)]


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.lineno, node.module


def is_typing_block(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def faults(path: str, source: str) -> list[str]:
    """What a source file at `path` does that its layer may not do."""
    tree, parts = ast.parse(source), path.split("/")
    found = []
    for line, name in imports(tree):
        top, inner = name.split(".")[0], name.split(".")[:3]
        where = f"{path}:{line} imports {name}"
        if top in ("phases", "plugins", "configs"):
            found.append(f"{where}: write forge.{name}")
        if parts[0] == "forge" and inner[:2] in (["forge", "phases"], ["forge", "plugins"]):
            found.append(f"{where}: the engine knows no phase and no plugin")
        if parts[0] == "forge" and top not in sys.stdlib_module_names | ENGINE_MAY:
            found.append(f"{where}: a vendor's library in the engine")
        if parts[0] == "phases" and inner[:2] == ["forge", "plugins"]:
            found.append(f"{where}: a phase asks ctx.use()")
        if parts[0] == "phases" and inner[:2] == ["forge", "phases"] and inner[2:] != [parts[1]]:
            found.append(f"{where}: a phase knows no sibling")
        if parts[0] == "plugins" and inner[:2] == ["forge", "phases"]:
            found.append(f"{where}: a plugin knows no phase")
    for node in tree.body:
        if not is_typing_block(node):
            names = [name for _, name in imports(node)] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            found += [f"{path}:{node.lineno} imports {name} at module level" for name in names if name.split(".")[0] in HEAVY]
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "print" and path != "forge/ui.py":
            found.append(f"{path}:{call.lineno} prints")
    return found


def test_every_file_keeps_to_its_layer() -> None:
    found = []
    for path in sources():
        found += faults(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    assert found == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("forge/x.py", "from forge.phases.audit import phase"),
        ("forge/x.py", "def f():\n    import numpy"),
        ("phases/prep/x.py", "from forge.plugins.extractors import pdf"),
        ("phases/prep/x.py", "from forge.phases.audit import dedup"),
        ("phases/prep/x.py", "import numpy"),
        ("phases/prep/x.py", "from phases.prep import y"),
        ("plugins/tasks/x.py", "from forge.phases.eval import phase"),
        ("phases/prep/x.py", "print('hello')"),
    ],
)
def test_the_check_finds_each_fault(path: str, source: str) -> None:
    assert faults(path, source)


def test_typing_blocks_and_functions_may_import_heavy_libraries() -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import numpy\ndef f():\n    import torch\n"
    assert faults("phases/train/x.py", source) == []


def test_no_broad_handler_goes_on_silently() -> None:
    silent = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                broad = node.type is None or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException"))
                if broad and all(isinstance(step, (ast.Pass, ast.Continue)) for step in node.body):
                    silent.append(f"{path.name}:{node.lineno}")
    assert silent == []
