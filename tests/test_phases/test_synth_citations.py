"""Citation marks go; times, numbers, ranges and code that only look like them stay."""

from __future__ import annotations

import pytest

from forge.phases.synth.citations import scrub


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("The valve opens at 14 bar [12].", "The valve opens at 14 bar."),
        ("The valve opens[3, 4] and closes.", "The valve opens[3, 4] and closes."),
        ("The valve opens.[3,4] It closes.", "The valve opens. It closes."),
        ("The valve opens [5-8], then closes [9][10].", "The valve opens, then closes."),
        ("It leaks (Smith et al., 2020).", "It leaks."),
        ("It leaks (Smith, 2020) often.", "It leaks often."),
        ("It leaks (Smith and Jones 2019; van Dyke & O'Neil, 2020b).", "It leaks."),
        ("It leaks (see Smith, 2020, pp. 3-5).", "It leaks."),
        ("It leaks (doi:10.1000/xyz.123).", "It leaks."),
        ("It leaks, https://doi.org/10.1000/xyz-9 says.", "It leaks, says."),
        ("It leaks (PMID: 12345678).", "It leaks."),
        ("It leaks PMC1234567.", "It leaks."),
    ],
)
def test_marks_of_citations_go(text: str, bare: str) -> None:
    assert scrub(text) == bare


@pytest.mark.parametrize(
    "text",
    [
        "Of all patients (during 1996), 12 fell ill.",
        "The rule holds (since 2009).",
        "There were [1,306] patients.",
        "There were cases [1,306] in all.",
        "It was built (May 2020) in Bern.",
        "Use the Rust edition (Rust 2021) or later.",
        "It runs on old systems (Windows 2000).",
        "The value lies in [1, 5].",
        "The array [1, 2, 3] has 3 items.",
        "The first item is items[1] of the list.",
        "Write `text [12].` to print it.",
        "Version 10.1 is old; 10.2/3 is none.",
        "The gear (Harlow, number 12) turns.",
        "Call f(x) and g(2020).",
        "It opens (January and February 2020).",
    ],
)
def test_what_only_looks_like_a_citation_stays(text: str) -> None:
    assert scrub(text) == text


def test_scrubbing_twice_changes_nothing_more() -> None:
    once = scrub("It leaks (Smith et al., 2020) [12]. See `it` (Smith, 2020).")
    assert scrub(once) == once == "It leaks. See `it`."
