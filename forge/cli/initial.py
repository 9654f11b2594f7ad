"""What `forge init` writes."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from forge.config import CONFIG_FILE, recipe_text
from forge.errors import ForgeError, UsageError

STARTER = """\
# Settings of slm-forge for this folder. `forge config show` lists every setting, its value and where it came from.
# Order: built-in < recipe < this file < FORGE__SECTION__KEY in the environment < --set section.key=value.

run:
  budget_usd: 0          # the cap in US dollars; `--budget 200` on the command line wins over this

# audit:
#   languages: [en]      # which languages to keep; default: the corpus' main one
# synth:
#   abstention: "I can't answer that from the documents I was trained on."
"""


def write_initial(folder: Path, *, sample: bool, recipe: str = "") -> list[Path]:
    """Write forge.yaml (a recipe's text), and a small corpus with `sample`; returns what was written. Never overwrites."""
    target, text = folder / CONFIG_FILE, recipe_text(recipe) if recipe else STARTER
    if target.exists() or (sample and (folder / "sample").exists()):
        raise UsageError(f"{target if target.exists() else folder / 'sample'} exists already", next="forge config show")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        return [target, *(_copy_sample(folder / "sample") if sample else [])]
    except OSError as error:
        raise ForgeError(f"cannot write to {folder}", why=error.strerror or str(error), next="forge init FOLDER") from error


def _copy_sample(target: Path) -> list[Path]:
    target.mkdir()
    with as_file(files("forge") / "sample") as source:
        for file in sorted(source.iterdir()):
            if file.is_file():
                (target / file.name).write_bytes(file.read_bytes())
    return [target]
