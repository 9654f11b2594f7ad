"""The extractor passes slm-forge's conformance suite, with every document in vectors/."""

from __future__ import annotations

from pathlib import Path

from forge.conformance import check_plugin


def test_the_extractor_conforms() -> None:
    checks = check_plugin(Path(__file__).parents[1])
    assert "vectors" in [check.name for check in checks]
