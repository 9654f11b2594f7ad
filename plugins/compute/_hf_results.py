"""The private repository into which a lease's jobs push what they have made: made, found, read and removed from here.

One for each attempt, of type model (the Hub makes previews of data sets), named slm-forge-<lease>-<attempt>-<part of a word of this
machine's own>, with a marker file in it that says whose it is. Without the marker a repository is not ours, whatever its name; one that
is empty, because its maker was killed before it wrote the marker, is known by the word, which was noted before it was asked for.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.errors import ArtifactDamaged, ForgeError
from forge.plugins.compute import _hf_push
from forge.plugins.compute._hf_hub import NotThere, ask, label
from forge.plugins.compute._transfer import id_of, listed, member, put_in_place
from forge.store import hash_file

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MARKER, MADE_BY = "slm-forge.json", "slm-forge"
OWN_FILES = {".gitattributes"}
PREFIX = "slm-forge-"
KEPT_SECONDS = 30 * 86400.0
"""As long as a host of yours keeps results that nobody fetched."""
SIGN = "~/.slm-forge/at-work"
BOOT = "import sys;exec(compile(sys.stdin.buffer.read(int(sys.argv[1])),'push','exec'))"

Words = Mapping[str, tuple[str, int]]
"""Of attempts that this machine noted before they were asked for -> (label of the lease, attempt)."""


class NotOurs(ForgeError):
    """A repository of that name was not made by us."""


def repo_name(lease: str, attempt: int, word: str) -> str:
    """At most 96 characters, without doubled dashes, as the Hub wants names."""
    text = re.sub("[^A-Za-z0-9]+", "-", label(lease)).strip("-")[:40].strip("-")
    return f"{PREFIX}{text}-{attempt}-{word[:12]}"


def make(api: HfApi, namespace: str, marker: Mapping[str, Any], word: str) -> str:
    """The repository of an attempt, private and marked; its id. Idempotent. Raises NotOurs, and what the Hub refuses."""
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.errors import HfHubHTTPError

    repo = f"{namespace}/{repo_name(str(marker['lease']), int(marker['attempt']), word)}"

    def create() -> None:
        try:
            api.create_repo(repo, private=True, exist_ok=False)
        except HfHubHTTPError as error:
            if getattr(error.response, "status_code", 0) != 409:   # else it is there: whose it is, is looked at below
                raise

    ask(create)
    info: Any = ask(lambda: api.repo_info(repo))
    files = {sibling.rfilename for sibling in info.siblings or []}
    if not info.private:
        raise NotOurs(f"{repo} is public", why="what a job makes is never put where others see it", next=f"hf repos settings {repo} --private")
    told = {**marker, "made_by": MADE_BY, "word": word}
    if MARKER in files:
        if read_marker(api, repo) != told:
            raise NotOurs(f"{repo} belongs to another lease")
        return repo
    if files - OWN_FILES:
        raise NotOurs(f"{repo} was not made by slm-forge", why=f"it holds files without {MARKER}")
    operation = CommitOperationAdd(path_in_repo=MARKER, path_or_fileobj=json.dumps(told, sort_keys=True).encode())
    ask(lambda: api.create_commit(repo, [operation], commit_message="of a running job of slm-forge; removed when it is over"))
    return repo


def found(api: HfApi, namespace: str, words: Words, known: dict[str, dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """(repository, marker, whether it is older than results are kept) of all that were made by us, all pages.

    words: of attempts that this machine noted. known: markers that were read before, added to.
    """
    for info in _listed(api, namespace, words):
        if not re.fullmatch(rf"{PREFIX}.+-\d+-[0-9a-f]{{12}}", info.id.rpartition("/")[2]):
            continue
        marker = known.get(info.id) or read_marker(api, info.id)
        if marker:
            known[info.id] = marker
        if marker := marker or _of_empty(api, info.id, words):
            yield info.id, marker, bool(info.created_at and time.time() - info.created_at.timestamp() > KEPT_SECONDS)


def _listed(api: HfApi, namespace: str, words: Words) -> list[Any]:
    """The namespace's repositories, and those that were noted, by their own addresses: a new one may not be in lists yet."""
    listed_now: list[Any] = ask(lambda: list(api.list_models(author=namespace)))
    known = {info.id for info in listed_now}
    for repo in {f"{namespace}/{repo_name(*told, word)}" for word, told in words.items()} - known:
        with suppress(NotThere):
            listed_now.append(ask(lambda repo=repo: api.repo_info(repo)))   # type: ignore[misc]
    return listed_now


def _of_empty(api: HfApi, repo: str, words: Words) -> dict[str, Any]:
    """What stands for the marker of one whose maker was killed before it was written."""
    ours = [(word, *told) for word, told in words.items() if repo.rpartition("/")[2] == repo_name(*told, word)]
    try:
        files = ask(lambda: api.list_repo_files(repo)) if ours else []
    except NotThere:
        return {}
    return {"lease": ours[0][1], "run": "", "attempt": ours[0][2]} if ours and set(files) <= OWN_FILES else {}


def remove(api: HfApi, repo: str, words: Words) -> None:
    """Remove one that is ours, looked at once more; nothing when it is gone. Raises NotOurs."""
    try:
        files = set(ask(lambda: api.list_repo_files(repo)))
    except NotThere:
        return
    if not read_marker(api, repo) and (files - OWN_FILES or not _of_empty(api, repo, words)):
        raise NotOurs(f"{repo} is left alone", why=f"it has no {MARKER} any more", next=f"look at it, then: hf repos delete {repo}")
    ask(lambda: api.delete_repo(repo, missing_ok=True))


def read_marker(api: HfApi, repo: str) -> dict[str, Any]:
    """What the marker file says; empty when there is none, or none of ours."""
    try:
        told = json.loads(Left(api, repo).read(MARKER, 0) or b"{}")
    except (NotThere, ValueError):
        return {}
    return dict(told) if isinstance(told, dict) and told.get("made_by") == MADE_BY else {}


def pusher(python: str, orders: Mapping[str, Any]) -> tuple[list[str], bytes]:
    """What starts _hf_push.py in a job, and its standard input. The token is in there only: no argument, no environment of a job holds it."""
    program = Path(_hf_push.__file__).read_bytes()
    return [python, "-I", "-c", BOOT, str(len(program))], program + json.dumps(orders).encode()


class Left:
    """What jobs have left in a repository, to be read as from the machine itself: forge.protocols.Left."""

    durable, poll_seconds = False, 1.0

    def __init__(self, api: HfApi, repo: str) -> None:
        self.api, self.repo = api, repo

    @cached_property
    def _info(self) -> tuple[str, frozenset[str]]:
        info: Any = ask(lambda: self.api.repo_info(self.repo))
        return str(info.sha), frozenset(sibling.rfilename for sibling in info.siblings or [])

    def read(self, remote: str, offset: int) -> bytes:
        """The bytes of a file from an offset on; empty when there is none."""
        if remote not in self._info[1]:
            return b""
        with tempfile.TemporaryDirectory() as scratch:
            return self._download(remote, Path(scratch)).read_bytes()[offset:]

    def get(self, remote: str, local: Path) -> None:
        """A file or folder, compared with the hashes that the job wrote beside it. Raises ArtifactDamaged."""
        if not (manifest := self.read(f"{_hf_push.MANIFESTS}/{remote}.json", 0)):
            raise ForgeError(f"{self.repo} has no {remote}")
        try:
            files = listed(json.loads(manifest), self.repo)
        except ValueError as error:
            raise ArtifactDamaged(f"{self.repo} has no list of the files of {remote}", why=str(error)) from error
        partial = local.with_name(f".{local.name}.{id_of(files)}.partial")
        for name, size, sha256, _ in files:
            place = member(partial, name)
            if not (place.exists() and place.stat().st_size == size and hash_file(place) == sha256):   # else brought before an interruption
                place.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=partial) as scratch:
                    self._download(_hf_push.join(remote, name), Path(scratch)).replace(place)
            if hash_file(place) != sha256:
                place.unlink()
                raise ArtifactDamaged(f"{_hf_push.join(remote, name)} in {self.repo} is not what the job pushed")
        put_in_place(partial, local, files)

    def put(self, local: Path, remote: str, sha256: str = "") -> None:
        """Nothing: what is left does not change."""

    def _download(self, remote: str, scratch: Path) -> Path:
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()   # the terminal is forge/ui.py's
        return Path(ask(lambda: self.api.hf_hub_download(self.repo, remote, revision=self._info[0], local_dir=scratch)))


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The library's switches that hold for the job as well."""
    return {name: given[name] for name in ("HF_HUB_DISABLE_XET",) if name in given}


