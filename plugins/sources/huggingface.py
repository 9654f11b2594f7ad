"""Datasets of the Hugging Face Hub: the files of a repository at one commit, with huggingface_hub.

Files only: no loading script of a repository is ever run.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from forge.errors import ForgeError, MissingAccess
from forge.phase import Requirement, Settings
from forge.plugins.sources._files import ByteBudget, FilesSettings, Names, head_sample
from forge.protocols import Fetching, Preview

SAMPLED_BYTES = 8 << 20
"""Files up to this size are downloaded for a sample: the hub's client has no ranged reads."""


class HubSettings(FilesSettings):
    """A repository of the hub."""

    repo: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$", description="the repository (owner/name)")
    repo_type: Literal["dataset", "model", "space"] = Field("dataset", description="what the repository holds")
    revision: str = Field("main", min_length=1, description="branch, tag or commit")
    token_env: str = Field("", description="environment variable with an access token, for private and gated repositories")
    endpoint_url: str = Field("", description="another hub than huggingface.co")


class HubSource:
    """The files of a repository at one commit."""

    name: ClassVar[str] = "huggingface"
    requires: ClassVar[tuple[Requirement, ...]] = (Requirement(module="huggingface_hub", extra="sources"),)
    settings: ClassVar[type[Settings]] = HubSettings

    def fetch(self, settings: HubSettings, folder: Path, ctx: Fetching) -> Mapping[str, Any]:
        """The wanted files at the commit that the revision names now; the commit is a fact."""
        hub = _Hub(settings, ctx)
        commit, files = hub.list_files()
        budget, names, draft = ByteBudget(settings.max_bytes), Names(), folder.parent / f"{folder.name}-hub"
        for _, size in files:
            budget.take(size)
        try:
            for done, (path, _) in enumerate(files):
                ctx.check_stop()
                ctx.progress(done, len(files))
                target = folder / names.of(path)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(hub.download(path, commit, draft), target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return {"commit": commit}

    def preview(self, settings: HubSettings, samples: int, ctx: Fetching) -> Preview:
        """Counts from the file tree; samples from the first files that are not large."""
        import tempfile

        hub = _Hub(settings, ctx)
        commit, files = hub.list_files()
        shown = []
        with tempfile.TemporaryDirectory(prefix="forge-hub-") as place:
            for path, _ in [one for one in files if one[1] <= SAMPLED_BYTES][:samples]:
                ctx.check_stop()
                with hub.download(path, commit, Path(place)).open("rb") as file:
                    shown.append(head_sample(path, file.read(4096)))
        return Preview(files=len(files), bytes=sum(size for _, size in files), samples=tuple(shown), note=f"commit {commit[:12]}")


class _Hub:
    def __init__(self, settings: HubSettings, ctx: Fetching) -> None:
        from huggingface_hub import HfApi

        self.settings = settings
        # None = what the library finds: HF_TOKEN or a login on this machine.
        self.token = ctx.secret(settings.token_env) if settings.token_env else None
        self.api = HfApi(endpoint=settings.endpoint_url or None, token=self.token)

    def list_files(self) -> tuple[str, list[tuple[str, int]]]:
        """The commit, and (path, bytes) of the wanted files in order."""
        settings, kind = self.settings, self.settings.repo_type
        try:
            commit = str(self.api.repo_info(settings.repo, repo_type=kind, revision=settings.revision).sha)
            tree = self.api.list_repo_tree(settings.repo, repo_type=kind, revision=commit, recursive=True)
            files = [(str(entry.path), int(entry.size)) for entry in tree if hasattr(entry, "size")]
        except Exception as error:   # noqa: BLE001 - becomes an error with its reason
            raise _explain(error, settings) from None
        return commit, sorted((path, size) for path, size in files if settings.wants(path))

    def download(self, path: str, commit: str, folder: Path) -> Path:
        """One file, below `folder`."""
        try:
            return Path(self.api.hf_hub_download(self.settings.repo, path, repo_type=self.settings.repo_type, revision=commit, local_dir=folder))
        except Exception as error:   # noqa: BLE001 - becomes an error with its reason
            raise _explain(error, self.settings) from None


def _explain(error: Exception, settings: HubSettings) -> ForgeError:
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

    where, reason = f"{settings.repo_type} {settings.repo}", " ".join(str(error).split())[:300]
    if isinstance(error, OfflineModeIsEnabled):
        return ForgeError(f"{where} cannot be fetched", why="HF_HUB_OFFLINE is set", next="unset HF_HUB_OFFLINE")
    if isinstance(error, (GatedRepoError, RepositoryNotFoundError)):
        return MissingAccess(f"{where} is not there for you", why=reason, next="check repo; for a private or gated one set token_env: HF_TOKEN")
    return ForgeError(f"{where} cannot be fetched", why=f"{type(error).__name__}: {reason}", next="check repo, revision and the network, then repeat the command")


source = HubSource()
