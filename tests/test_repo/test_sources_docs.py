"""Every example in docs/sources.md and examples/sources.yaml is accepted by the parser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from forge.registry import Registry
from forge.sources import read_sources

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "sources.md").read_text(encoding="utf-8"), re.S)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_of_the_documentation_is_a_valid_list(block: str, tmp_path: Path) -> None:
    text = block if block.startswith("version") else "version: 1\nsources:\n" + "".join(f"  {line}\n" for line in block.splitlines())
    (tmp_path / "sources.yaml").write_text(text, encoding="utf-8")
    assert read_sources(tmp_path / "sources.yaml", Registry())


def test_every_kind_has_a_block() -> None:
    shown = set(re.findall(r"kind: (\w+)", "".join(BLOCKS)))
    assert set(Registry().names("source")) - shown == {"oracle"}   # it is mssql with another name


def test_the_example_is_valid() -> None:
    assert [source.name for source in read_sources(ROOT / "examples" / "sources.yaml", Registry())] == ["handbook", "readme"]
