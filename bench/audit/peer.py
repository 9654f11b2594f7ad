#!/usr/bin/env python3
"""datatrove's rules on the passages of bench/audit/run.py, in a Python that has it:  peer.py PASSAGES; the last line is JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path


def main() -> None:
    from datatrove.data import Document
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.formatters import PIIFormatter

    with Path(sys.argv[1]).open(encoding="utf-8") as lines:
        documents = [Document(text=json.loads(line)["text"], id=str(number)) for number, line in enumerate(lines)]
    repetition, quality, private = GopherRepetitionFilter(), GopherQualityFilter(), PIIFormatter()
    rules = {
        "quality rules": ("ours; Gopher's quality and repetition", lambda one: (repetition.filter(one), quality.filter(one))),
        "private data": ("ours, 81 rules; e-mail and IP addresses", lambda one: private.format(one.text)),
    }
    found = {name: {"what": what, "microseconds": per_document(rule, documents)} for name, (what, rule) in rules.items()}
    sys.stdout.write(json.dumps({"version": version("datatrove"), "rules": found}) + "\n")


def per_document(rule: Callable[[object], object], documents: list[object]) -> float:
    rule(documents[0])
    began = time.process_time()
    for one in documents:
        rule(one)
    return (time.process_time() - began) / len(documents) * 1e6


if __name__ == "__main__":
    main()
