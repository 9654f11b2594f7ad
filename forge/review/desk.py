"""What can be done at a review, by page or by command: look, decide about pairs, make the plan again, approve it, close the run."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from forge import gate
from forge.config import Config
from forge.costs import bring_budget, phase_costs, to_come
from forge.errors import ForgeError, UsageError, WaitingAtGate, nearest
from forge.events import Listener
from forge.registry import Registry
from forge.review import decisions
from forge.review.book import Asked, Book
from forge.review.decisions import Decided, Told, apply, current, decide, fingerprint, history
from forge.review.remake import Remaking, outdated, planner
from forge.run import Run
from forge.sections import ordered_phases

EDITABLE = ("question", "answer", "evidence")
SYNTH, RECHECK = "synth", "recheck"
WHY_MOST = 500


class Refusal(ForgeError):
    """An edit that one of synth's filters does not let through."""


class Desk:
    """One reviewer at one run. Its methods may be called from several threads."""

    def __init__(self, run: Run, registry: Registry, config: Config, listener: Listener = lambda event: None) -> None:
        self.run, self.registry, self.config, self.listener = run, registry, config, listener
        self.lock = threading.RLock()
        self.remaking: Remaking | None = None
        self.approved = ""
        self.book = Book(run)
        bring_budget(run)

    # --- looking ------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything above the lists: plan, checks, money, counts, decisions, and what can be done now."""
        with self.lock:
            self._settle()
            return {
                "run": self.run.id, "corpus": self.run.corpus.name, "dry_run": self.run.dry_run, "busy": self.run.is_busy() and not self.is_remaking,
                "plan": self._plan(), "money": self._money(), "counts": self.book.counts(),
                "facets": {kind: self.book.facets(kind) for kind in self.book.lists},
                "decisions": self._decisions(), "outdated": "" if self.is_remaking else outdated(self.run, self.registry, self.config),
                "remake": self.remaking.shown if self.remaking else None,
            }

    def items(self, asked: Asked) -> dict[str, Any]:
        """One page of a list."""
        with self.lock:
            self._settle()
            total, found = self.book.find(asked)
        return {"kind": asked.kind, "total": total, "offset": asked.offset, "items": found}

    @property
    def is_remaking(self) -> bool:
        """True while the plan is being made again."""
        return bool(self.remaking and self.remaking.shown["running"])

    # --- deciding -----------------------------------------------------------------------------------------------

    def reject(self, ids: Iterable[str], why: str = "") -> int:
        """Leave pairs out of the data set; returns how many."""
        return self._decide([Told(id=one, action="reject", why=why[:WHY_MOST]) for one in dict.fromkeys(ids)])

    def keep(self, ids: Iterable[str], why: str = "") -> int:
        """Take earlier decisions about pairs back; returns how many."""
        return self._decide([Told(id=one, action="keep", why=why[:WHY_MOST]) for one in dict.fromkeys(ids)])

    def edit(self, changes: Sequence[tuple[str, Mapping[str, str], str]]) -> int:
        """Change pairs: (id, fields, why) each; returns how many. Raises Refusal, and changes none, when a filter refuses one."""
        told, refused = self.check(changes)
        if refused:
            names = "; ".join(f"{one}: {reason.replace('_', ' ')}" for one, reason in list(refused.items())[:5])
            raise Refusal(
                f"{len(refused)} of {len(changes)} edits do not pass the filters that every pair passes", why=names,
                next="change them, or reject the pairs",
            )
        return self._decide(told)

    def check(self, changes: Sequence[tuple[str, Mapping[str, str], str]]) -> tuple[list[Told], dict[str, str]]:
        """The decisions that edits make, and for those that a filter refuses its name."""
        self.check_ids(one for one, _, _ in changes)
        told, refused = [], {}
        decided = current(self.run)
        for one, fields, why in changes:
            pair = self.book.by_id[one]
            if unknown := sorted(set(fields) - set(EDITABLE)):
                raise UsageError(f"{unknown[0]} of a pair cannot be edited", why=f"can be: {', '.join(EDITABLE)}", next="reject the pair instead")
            before = decided.get(one)
            base = before.pair if before and before.pair else pair
            edited, reason = self._recheck.check(base.model_copy(update=dict(fields)))
            if reason:
                refused[one] = reason
            elif edited == pair:
                told.append(Told(id=one, action="keep", why=why[:WHY_MOST]))
            else:
                told.append(Told(id=one, action="edit", pair=edited, was=fingerprint(pair), why=why[:WHY_MOST]))
        return told, refused

    def check_ids(self, ids: Iterable[str]) -> None:
        """Raise UsageError for an id that no pair has."""
        for one in ids:
            if one not in self.book.by_id:
                following = f"forge review {self.run.id} --export FILE.jsonl"
                raise UsageError(f'run {self.run.id} has no pair "{one}"', why=nearest(one, list(self.book.by_id)) if len(self.book.by_id) < 50 else "", next=following)

    def _decide(self, told: Sequence[Told]) -> int:
        self.check_ids(one.id for one in told)
        with self.lock:
            if self.is_remaking:
                raise WaitingAtGate("the plan is being made again", why="a decision now would be about the plan before it", next="wait until it is done")
            self._settle()
            with self.run.lock():
                decide(self.run, told)
            self.book.decide(one.id for one in told)
            self.__dict__.pop("_recheck", None)   # the next edit is checked against what is there now
        return len(told)

    @cached_property
    def _recheck(self) -> Any:
        """The pairs as they are decided now: an edit must not repeat another edit."""
        pairs = apply(self.book.pairs, current(self.run)).pairs
        tool = self.registry.tool(RECHECK)
        return tool.over(pairs, self.book.passages.values(), self.config.section(SYNTH))

    # --- the plan -----------------------------------------------------------------------------------------------

    def remake(self) -> None:
        """Make the plan again with the decisions, in the background."""
        with self.lock:
            if not self.is_remaking:
                self.remaking = Remaking(self.run.id, self.registry, self.config, self.listener)
                self.remaking.start()

    def approve(self, sha256: str) -> str:
        """Approve exactly the plan with this hash. Raises WaitingAtGate while decisions are not in it, or when it is another."""
        with self.lock:
            if self.is_remaking:
                raise WaitingAtGate("the plan is being made again", next="wait until it is done")
            with self.run.lock():
                decisions.publish(self.run)   # had a decision been killed between its record and its artifact
                if why := outdated(self.run, self.registry, self.config):
                    raise WaitingAtGate("the plan must be made again before it can be approved", why=why, next=f"forge resume {self.run.id} --until {self.planner}")
                self.approved = gate.approve(self.run, sha256)
            return self.approved

    def close_run(self) -> None:
        """Reject the plan: the run is closed at the gate, its data stays."""
        with self.lock, self.run.lock():
            gate.reject(self.run)

    def stop(self) -> None:
        """End what runs in the background."""
        if self.remaking:
            self.remaking.stop()

    # --- parts of the state -------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Read the lists anew once a remake has ended."""
        if self.remaking and not self.remaking.shown["running"] and not self.remaking.shown.get("read"):
            self.book = Book(self.run)
            self.remaking.shown["read"] = True

    @property
    def planner(self) -> str:
        """The phase that makes the plan."""
        return planner(self.registry)

    def _plan(self) -> dict[str, Any] | None:
        try:
            plan, sha256, edited = gate.current(self.run)
        except UsageError:
            return None
        text = self.run.store.get("plan_text")
        path = self.run.store.link(text) if text else None
        return {
            "sha256": sha256, "short": gate.short(sha256), "edited": edited, "approved": gate.is_approved(self.run, sha256),
            "plan": plan.model_dump(mode="json"), "page": path.read_text(encoding="utf-8") if path and path.exists() else "",
        }

    def _money(self) -> dict[str, Any]:
        totals = self.run.ledger.totals()
        rows = phase_costs(self.run, [phase.name for phase in ordered_phases(self.registry)])
        p50, p90 = to_come(self.run, rows)
        return {**totals.model_dump(), "to_come_p50": p50, "to_come_p90": p90, "phases": [row.model_dump() for row in rows]}

    def _decisions(self) -> dict[str, Any]:
        decided = current(self.run).values()
        told = [one.model_dump(mode="json", exclude={"pair", "was"}) for one in history(self.run)]
        return {
            "rejected": _count(decided, "reject"), "edited": _count(decided, "edit"), "stale": len(apply(self.book.pairs, current(self.run)).stale),
            "history": told[-200:], "taken": len(told),
        }


def read_edits(path: Path, book: Book) -> tuple[list[tuple[str, dict[str, str], str]], list[tuple[str, str]]]:
    """Edits (id, changed fields, why) and rejections (id, why) of a file as `--export` writes it. Raises UsageError with the line.

    A row counts as an edit where question, answer or evidence differ from the pair as it is now; as a rejection where
    "decision" is "rejected" or "reject".
    """
    edits, rejections = [], []
    shown = {item.id: item.shown for item in book.lists["pairs"]}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        row = _row(line, f"{path.name}:{number}")
        one, why = row["id"], str(row.get("why", ""))
        if one not in shown:
            raise UsageError(f'{path.name}:{number}: there is no pair "{one}"', why=f"run {book.run.id} has {len(shown):,} pairs", next=f"forge review {book.run.id} --export FILE.jsonl")
        if str(row.get("decision", "")) in {"reject", "rejected"}:
            rejections.append((one, why))
        elif changed := {name: str(row[name]) for name in EDITABLE if name in row and row[name] != shown[one][name]}:
            edits.append((one, changed, why))
    return edits, rejections


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where} is not JSON", why=str(error), next="one pair a line, as forge review --export writes it") from error
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        raise UsageError(f"{where} names no pair", why='it needs an "id"', next="one pair a line, as forge review --export writes it")
    return row


def _count(decided: Iterable[Decided], action: str) -> int:
    return sum(one.action == action for one in decided)
