"""The chat template inside a GGUF file, run as transformers runs it (5.23, utils/chat_template_utils.py), without transformers."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from forge.errors import ForgeError
from forge.gguf_header import read_gguf


def read_template(file: Path) -> str:
    """The text of the template. Raises ForgeError for a file without one."""
    template = read_gguf(file).values.get("tokenizer.chat_template")
    if not template:
        raise ForgeError(f"{file.name} has no chat template", next="forge resume RUN --from quantize")
    return str(template)


def compile_template(source: str) -> Any:
    """A jinja2.Template; render() takes messages, add_generation_prompt, bos_token and eos_token."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(source)
