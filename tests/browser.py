"""A real browser for tests of pages: the system's Chromium, driven by playwright, without a window."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.programs import program

SHOTS = os.environ.get("FORGE_SHOTS", "")   # read before tests clear the environment


def chromium() -> str:
    """The path of Chromium."""
    return program("chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome", install="apt-get install chromium")


@contextmanager
def browser() -> Iterator[Any]:
    """A playwright browser. --no-sandbox: CI runs as root, where Chromium's own sandbox refuses to start."""
    from playwright.sync_api import sync_playwright

    path = chromium()
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield opened
        finally:
            opened.close()


def listen(page: Any) -> list[str]:
    """What goes wrong on a page: errors, warnings, and requests that leave this machine."""
    faults: list[str] = []
    page.on("console", lambda message: faults.append(f"{message.type}: {message.text}") if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on("request", lambda request: None if request.url.startswith(("http://127.0.0.1:", "data:", "file:")) else faults.append(f"request: {request.url}"))
    return faults


def keep(page: Any, name: str) -> None:
    """A picture of the page for people, where $FORGE_SHOTS names a folder."""
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)


UNNAMED = """() => [...document.querySelectorAll('button, input, select, textarea, a, [role=img], progress')].filter((one) => {
  const label = one.labels && [...one.labels].map((l) => l.textContent).join('');
  return one.checkVisibility() && !(one.getAttribute('aria-label') || label || one.textContent.trim() || one.title);
}).map((one) => one.outerHTML.slice(0, 120))"""
"""What a screen reader would have no name for."""
