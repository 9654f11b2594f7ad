"""Citation marks out of questions and answers; the rules are those by which audit takes them out of passages."""

from __future__ import annotations

from forge.citations import scrub

__all__ = ["scrub"]
