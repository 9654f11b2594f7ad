"""Brings the sources of a run into its folder, once: a resumed run reads the snapshot and fetches nothing again.

runs/<id>/sources/<name>.json             what was fetched: sha256 of the settings, facts (a commit, ETags), when
runs/<id>/sources/<label>/<name>/...      its files; for files on this machine a link to where they are

A snapshot counts once its manifest is written, which is the last step; it is replaced when the source's settings change
or `refetch` asks for it, and only after the new one is complete.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from forge.corpus import walk_corpus, walk_names
from forge.credentials import Secrets
from forge.protocols import Fetching, InPlace
from forge.records import CorpusEntry, Record, canonical_json
from forge.sources import Source, corpus_label, naming_source, place_of
from forge.store import write_durably


class Manifest(Record):
    """What is known about a snapshot. Times stay out of artifacts: nothing else reads `fetched`."""

    name: str
    kind: str
    settings_sha256: str
    files: int
    bytes: int
    fetched: float
    facts: dict[str, Any]


class Snapshots:
    """The snapshots of one run. `tell` gets one line for each source that is fetched."""

    def __init__(
        self, folder: Path, corpus: Path, sources: list[Source], *, tell: Callable[[str], None] = lambda text: None,
        check_stop: Callable[[], None] = lambda: None, donors: Sequence[Path] = (),
        progress: Callable[[str, int, int | None], None] = lambda name, done, total: None,
    ) -> None:
        """donors: folders of other runs over the same list; their snapshots of unchanged entries are taken over.

        progress(source, files or rows so far, of how many or None).
        """
        self.progress = progress
        self.folder, self.sources, self.tell, self.check_stop = folder / "sources", sources, tell, check_stop
        self.donors = [donor / "sources" for donor in donors if donor != folder]
        self.root = self.folder.resolve() / corpus_label(corpus)
        self.base = corpus.resolve().parent
        self.secrets = Secrets()

    def bring(self, *, refetch: bool = False) -> None:
        """Fetch what is missing or changed. Raises the first source's error, which names it; finished snapshots stay."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._forget_others()
        for source in self.sources:
            self.check_stop()
            if source.is_local:
                self._link(source)
            elif refetch or not (self._is_current(source) or self._take_over(source)):
                self._fetch(source)

    def entries(self, cache: Path | None, leave_out: Path) -> Iterator[CorpusEntry]:
        """The corpus: every file of every source as <name>/…, in the order of paths."""
        for source in self.sources:
            if source.is_local:
                place = self._place(source)
                found = walk_corpus(place.root, cache, leave_out=leave_out, wanted=place.wanted)
            else:
                found = walk_corpus(self.root / source.name, cache)
            for entry in found:
                yield entry.model_copy(update={"path": f"{source.name}/{entry.path}"})

    def _is_current(self, source: Source) -> bool:
        manifest = self._manifest(source, self.folder)
        return manifest is not None and manifest.settings_sha256 == source.sha256

    def _take_over(self, source: Source) -> bool:
        """Link the files of another run's snapshot of the same entry: a real run reads what its rehearsal fetched."""
        for donor in self.donors:
            manifest = self._manifest(source, donor)
            if manifest is None or manifest.settings_sha256 != source.sha256:
                continue
            draft = self.folder / f".new-{source.name}"
            try:
                shutil.copytree(donor / self.root.name / source.name, draft, symlinks=True, copy_function=_link_or_copy)
                if self._manifest(source, donor) == manifest:   # not replaced meanwhile
                    self._publish(draft, manifest)
                    self.tell(f"source {source.name} ({source.kind}): {manifest.files:,} files of run {donor.parent.name} are used again; --refetch brings them anew")
                    return True
            except OSError:   # the other run is replacing it just now
                continue
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        return False

    def _manifest(self, source: Source, folder: Path) -> Manifest | None:
        """The manifest of a complete snapshot in a run's folder of sources."""
        path, files = folder / f"{source.name}.json", folder / self.root.name / source.name
        if not path.is_file() or not files.is_dir() or files.is_symlink():
            return None
        try:
            return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
        except ValueError:   # damaged: fetch it again
            return None

    def _fetch(self, source: Source) -> None:
        known = self._manifest(source, self.folder)
        self.tell(f"source {source.name} ({source.kind}): fetching")
        old = known if known and known.settings_sha256 == source.sha256 else None
        draft = self.folder / f".new-{source.name}"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        ctx = self._context(self.root / source.name if old else None, old.facts if old else {}, source.name)
        try:
            with naming_source(source, self.secrets):
                source.require()
                facts = source.reader.fetch(source.settings, draft, ctx)
            files, size = _count(draft)
            manifest = Manifest(
                name=source.name, kind=source.kind, settings_sha256=source.sha256, files=files, bytes=size,
                fetched=round(time.time(), 3), facts=self.secrets.hide_all(dict(facts)),
            )
            self._publish(draft, manifest)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        self.tell(f"source {source.name} ({source.kind}): {files:,} files, {size:,} bytes fetched")

    def _publish(self, draft: Path, manifest: Manifest) -> None:
        card = self.folder / f"{manifest.name}.json"
        card.unlink(missing_ok=True)
        _remove(self.root / manifest.name)
        draft.rename(self.root / manifest.name)
        write_durably(card, canonical_json(manifest.model_dump(mode="json")) + "\n")

    def _link(self, source: Source) -> None:
        """A link to the folder of local files, so that root/<name>/<path> is the file everywhere."""
        place, link = self._place(source), self.root / source.name
        target = place.root if place.root.is_dir() else place.root.parent
        if link.is_symlink() and link.readlink() == target:
            return
        (self.folder / f"{source.name}.json").unlink(missing_ok=True)
        _remove(link)
        link.symlink_to(target)

    def _place(self, source: Source) -> InPlace:
        return place_of(source, self._context(None, {}), self.secrets)

    def _context(self, previous: Path | None, facts: dict[str, Any], name: str = "") -> Fetching:
        return Fetching(
            base=self.base, secret=self.secrets.read, hide=self.secrets.add, check_stop=self.check_stop, previous=previous, facts=facts,
            progress=lambda done, total: self.progress(name, done, total),
        )

    def _forget_others(self) -> None:
        """Remove what belongs to no source (any more)."""
        names = {source.name for source in self.sources}
        for path in self.folder.iterdir():
            if path.name.startswith(".new-") or (path.suffix == ".json" and path.stem not in names):
                _remove(path)
        for path in self.root.iterdir():
            if path.name not in names:
                _remove(path)


def _count(folder: Path) -> tuple[int, int]:
    sizes = [path.lstat().st_size for path, _ in walk_names(folder)]
    return len(sizes), sum(sizes)


def _link_or_copy(source: str, target: str, *, follow_symlinks: bool = True) -> None:
    try:
        os.link(source, target, follow_symlinks=follow_symlinks)
    except OSError:   # another file system, or one without links
        shutil.copy2(source, target, follow_symlinks=follow_symlinks)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
