"""Ready-made examples on their sides: by source document always, near-copies of a document counted as the same one.

Sides are filled one group after the other, each going where its labels are still missing most, so that the labels are spread
evenly although no document is divided (as scikit-learn's StratifiedGroupKFold does, Sechidis et al. 2011).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, get_args

from forge.errors import ForgeError
from forge.phase import Context
from forge.phases.shape.imports import Imported
from forge.phases.shape.leakage import overlap_share
from forge.phases.shape.material import Rows
from forge.phases.shape.template import ChatFormat
from forge.protocols import Ready
from forge.questions import near_texts
from forge.records import Chat, Example, Labelled, Passage, Source, Split, digest

if TYPE_CHECKING:
    from forge.phases.shape import ShapeSettings

NEAR_COPY = 0.8
"""Word-trigram overlap (Jaccard) from which two inputs are one: their documents become one group (eval research, section 1)."""
MIN_GROUPS = 3
TEST_WANTED, TEST_SHARE_MAX = 165, 0.3
"""Fewer than 150 tested items support no gate of these tasks, so small data sets give up to 30 % of theirs."""
DRY_EXAMPLES = 240
SIDES: Mapping[str, Split] = {"train": "train", "val": "val", "test": "test_unseen"}


def divide_examples(imported: Imported, settings: ShapeSettings, ctx: Context) -> Rows:
    """Every example on its side: the data's own where it names one, else by document. Raises ForgeError below three documents."""
    groups = _groups(imported.examples, ctx)
    chosen = list(zip(imported.examples, groups, strict=True))
    if ctx.dry_run:
        chosen = _sample(chosen, ctx.seed)
    free = [(one, group) for one, group in chosen if not one.part]
    sides = split_labelled([(group, _strata(one)) for one, group in free], settings, ctx.seed, given={one.part for one in imported.examples})
    rows: Rows = {split: [] for split in get_args(Split)}
    for one, group in chosen:
        split = SIDES[one.part] if one.part else sides[group]
        rows[split].append(_example(one, group, split))
    if settings.balance:
        rows["train"] = balance(rows["train"], ctx)
    return {split: sorted(found, key=lambda row: row.id) for split, found in rows.items()}


def split_labelled(
    rows: Sequence[tuple[str, Sequence[str]]], settings: ShapeSettings, seed: int, *, given: set[str] = frozenset()  # type: ignore[assignment]
) -> dict[str, Split]:
    """group -> side for rows of (group, strata). `given`: sides that other rows bring; they are not filled again."""
    if not rows:
        return {}
    by_group: dict[str, Counter[str]] = defaultdict(Counter)
    for group, strata in rows:
        by_group[group].update({"": 1, **Counter(strata)})
    shares: dict[Split, float] = {
        "test_unseen": 0.0 if "test" in given else max(settings.unseen_share, min(TEST_SHARE_MAX, TEST_WANTED / len(rows))),
        "val": 0.0 if "val" in given else settings.val_share,
    }
    shares["train"] = 1 - sum(shares.values())
    wanted = [split for split, share in shares.items() if share > 0]
    if len(by_group) < len(wanted):
        raise ForgeError(
            f"the examples come from {len(by_group)} document{'s' if len(by_group) != 1 else ''}; at least {len(wanted)} are needed",
            why="a document is never on both sides of a split", next="name the column of the source document in shape.data, or add data",
        )
    return _fill(by_group, {split: shares[split] for split in wanted}, seed)


def _fill(by_group: Mapping[str, Counter[str]], shares: Mapping[Split, float], seed: int) -> dict[str, Split]:
    total = sum(by_group.values(), Counter[str]())
    room = {split: {name: share * count for name, count in total.items()} for split, share in shares.items()}
    order = sorted(by_group, key=lambda group: (-by_group[group][""], digest(str(seed), group), group))
    sides: dict[str, Split] = {}
    for number, group in enumerate(order):
        empty = [split for split in shares if split not in sides.values()]
        choice = empty if len(order) - number <= len(empty) else list(shares)
        side = max(choice, key=lambda split: (_missing(by_group[group], room[split], total, shares[split]), split))
        sides[group] = side
        for name, count in by_group[group].items():
            room[side][name] -= count
    return sides


def _missing(counts: Counter[str], room: Mapping[str, float], total: Counter[str], share: float) -> float:
    """How much a side still wants of what a group brings, rare labels first; in parts of what it wanted."""
    return sum(count / total[name] * room[name] / (share * total[name]) for name, count in counts.items())


def balance(rows: Sequence[Example], ctx: Context) -> list[Example]:
    """As many rows of each label as the rarest has, drawn by hash. Extractions: as many texts without entities as with."""
    by_label: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        by_label[row.bucket].append(row)
    fewest = min(map(len, by_label.values()), default=0)
    kept = [row for found in by_label.values() for row in sorted(found, key=lambda row: digest(str(ctx.seed), row.id))[:fewest]]
    if len(kept) < len(rows):
        ctx.notice(f"balanced: {len(kept):,} of {len(rows):,} training rows are kept, {fewest:,} of each of {', '.join(sorted(by_label))}")
    return kept


def pretraining_of(rows: Rows, passages: Sequence[Passage], files: frozenset[str], chat: ChatFormat) -> tuple[list[Passage], list[Passage]]:
    """Text for a base from scratch: the inputs of the rows, and passages of documents that are no data files."""
    others = [passage for passage in passages if passage.source.path not in files and not chat.holds_special(passage.text)]
    return [*(_passage(row) for row in rows["train"]), *others], [_passage(row) for row in rows["val"]]


def measure_ready(rows: Rows, pretrain: Sequence[Passage]) -> dict[str, float]:
    """What training and test share, by name of the figure; rows are chats."""
    fitted, tested = [*rows["train"], *rows["val"]], rows["test_unseen"]
    groups = {row.group for row in rows["train"]} | {passage.group for passage in pretrain}
    known, asked = [_input(row) for row in fitted], [_input(row) for row in tested]
    forms = {_flat(text) for text in known}
    return {
        "shared_groups_val": float(len(groups & {row.group for row in rows["val"]})),
        "shared_groups_unseen": float(len((groups | {row.group for row in rows["val"]}) & {row.group for row in tested})),
        "identical_inputs": float(sum(_flat(text) in forms for text in asked)),
        "near_identical_inputs": float(len({i for i, _ in near_texts(asked, known, NEAR_COPY)})),
        "unseen_13gram_share": overlap_share(asked, [*known, *(passage.text for passage in pretrain)]),
    }


def _groups(examples: Sequence[Ready], ctx: Context) -> list[str]:
    """The document of each example. Without one told, rows on the same text are one; near-copies join their documents."""
    named = [one.group or (f"text:{digest(_flat(one.body.text))[:12]}" if one.body.text else f"row:{digest(one.place)[:12]}") for one in examples]
    if unnamed := sum(not one.group for one in examples):
        ctx.notice(
            f"{unnamed:,} of {len(examples):,} examples name no source document: rows on the same text are kept together, others count as documents"
            " of their own. If they have one, name its column: shape.data=[{path: FILE, columns: {group: COLUMN}}]"
        )
    texts = [_asked(one) for one in examples]
    parent = {group: group for group in named}

    def root(group: str) -> str:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    free = [i for i, one in enumerate(examples) if not one.part]   # a side that the data give is judged, not mended
    found = [texts[i] for i in free]
    for i, j in near_texts(found, found, NEAR_COPY):
        first, second = sorted((root(named[free[i]]), root(named[free[j]])))
        parent[second] = first
    joined = len(set(named)) - len({root(group) for group in set(named)})
    if joined:
        ctx.notice(f"{joined:,} documents hold near-copies of others and are kept on the same side")
    return [root(group) for group in named]


def _sample(chosen: Sequence[tuple[Ready, str]], seed: int) -> list[tuple[Ready, str]]:
    """Whole documents, drawn by hash, until a dry run has enough."""
    order = sorted({group for _, group in chosen}, key=lambda group: digest(str(seed), "dry", group))
    size = Counter(group for _, group in chosen)
    kept, count = set[str](), 0
    for group in order:
        if count >= DRY_EXAMPLES and len(kept) >= 4 * MIN_GROUPS:
            break
        kept.add(group)
        count += size[group]
    return [one for one in chosen if one[1] in kept]


def _example(one: Ready, group: str, split: Split) -> Example:
    body = one.body
    bucket = body.label if isinstance(body, Labelled) else ("entities" if body.entities else "nothing")
    return Example(id=digest(one.place, _asked(one), group)[:16], split=split, group=group, bucket=bucket, body=body)


def _strata(one: Ready) -> tuple[str, ...]:
    body = one.body
    if isinstance(body, Labelled):
        return (body.label,)
    return tuple(sorted({span.type for span in body.entities})) or ("nothing",)


def _passage(row: Example) -> Passage:
    return Passage(id=row.id, source=Source(path=f"{row.id}.txt", sha256=""), group=row.group, text=_input(row))


def _input(row: Example) -> str:
    assert isinstance(row.body, Chat)
    return "\n".join(turn.content for turn in row.body.prompt if turn.role == "user")


def _asked(one: Ready) -> str:
    body = one.body
    return f"{body.text}\n{body.question}" if isinstance(body, Labelled) and body.question else body.text


def _flat(text: str) -> str:
    return " ".join(text.casefold().split())
