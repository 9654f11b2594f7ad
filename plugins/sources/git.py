"""Git repositories through the `git` program: one commit, no history, no hooks, no submodules, no LFS downloads.

The user's and the system's git configuration are not read, so no filter, alias or credential helper of theirs runs;
ssh keys work as usual. Only https, http, ssh and git are spoken; file paths only when the entry names one.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from forge.errors import ForgeError, MissingAccess
from forge.phase import Requirement, Settings
from forge.plugins.sources._files import ByteBudget, FilesSettings, head_sample
from forge.previews import HEAD_BYTES
from forge.protocols import Fetching, Preview

SCHEMES = {"https", "http", "ssh", "git"}
OFF = {
    "core.hooksPath": os.devnull, "core.fsmonitor": "false", "core.autocrlf": "false", "core.eol": "lf", "core.attributesFile": os.devnull,
    "protocol.ext.allow": "never", "submodule.recurse": "false", "fetch.recurseSubmodules": "false", "gc.auto": "0",
    "advice.detachedHead": "false", "init.defaultBranch": "main", "http.followRedirects": "initial",
}
POLL_SECONDS = 0.1


class GitSettings(FilesSettings):
    """One commit of a repository."""

    url: str = Field(min_length=1, description="address or local path of the repository")
    ref: str = Field("HEAD", min_length=1, description="branch, tag or full commit hash")
    user: str = Field("x-access-token", description="user name that goes with token_env (https only)")
    token_env: str = Field("", description="environment variable with an access token (https only)")
    timeout_seconds: float = Field(1800.0, gt=0, description="longest time that one git command may take")

    @field_validator("url", "ref")
    @classmethod
    def _no_option(cls, value: str) -> str:
        if value.startswith("-") or "\n" in value or "::" in value:
            raise ValueError("it is not an address or a name that git may be given")
        return value

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, value: str) -> str:
        scheme = urlsplit(value).scheme if "://" in value else ""
        if scheme and scheme not in SCHEMES:
            raise ValueError(f"{scheme}:// is not spoken here; write https://, http://, ssh://, git://, user@host:path or a local path")
        return value


class GitSource:
    """The files of one commit."""

    name: ClassVar[str] = "git"
    requires: ClassVar[tuple[Requirement, ...]] = ()
    settings: ClassVar[type[Settings]] = GitSettings

    def fetch(self, settings: GitSettings, folder: Path, ctx: Fetching) -> Mapping[str, Any]:
        """The commit's files that include and exclude let through; the resolved commit is a fact."""
        with tempfile.TemporaryDirectory(prefix="forge-git-", dir=folder.parent) as place:
            git = _Git(Path(place), settings, ctx)
            commit = git.bring_commit()
            budget = ByteBudget(settings.max_bytes)
            wanted = [(path, size) for path, size in git.files(commit) if settings.wants(path)]
            for _, size in wanted:
                budget.take(size)
            git.check_out(commit, [path for path, _ in wanted], folder)
        return {"commit": commit}

    def preview(self, settings: GitSettings, samples: int, ctx: Fetching) -> Preview:
        """Fetches the one commit into a temporary folder: git has no cheaper way to list a remote tree."""
        with tempfile.TemporaryDirectory(prefix="forge-git-") as place:
            git = _Git(Path(place), settings, ctx)
            commit = git.bring_commit()
            files = [(path, size) for path, size in git.files(commit) if settings.wants(path)]
            shown = tuple(head_sample(path, git.run("cat-file", "blob", f"{commit}:{path}")[:HEAD_BYTES]) for path, _ in files[:samples])
        return Preview(files=len(files), bytes=sum(size for _, size in files), samples=shown, note=f"commit {commit[:12]}")


class _Git:
    """git in a bare repository of its own."""

    def __init__(self, place: Path, settings: GitSettings, ctx: Fetching) -> None:
        if shutil.which("git") is None:
            raise MissingAccess("the program git is not installed", why="kind: git needs it", next="apt-get install git")
        self.place, self.ctx, self.seconds = place / "repository.git", ctx, settings.timeout_seconds
        self.url, local = _address(settings.url, ctx.base)
        self.ref = settings.ref
        self.environment = _environment(settings, ctx, local=local)
        self.place.mkdir()
        self.run("init", "--quiet", "--bare", ".")

    def bring_commit(self) -> str:
        """Fetch the ref, shallow where the server allows it; returns the commit's hash."""
        shallow = ("fetch", "--quiet", "--depth", "1", "--no-tags", "--no-recurse-submodules", "--", self.url, self.ref)
        try:
            self.run(*shallow)
        except ForgeError:
            # A server may refuse to give a commit by its hash: fetch all branches and look for it there.
            if not _is_hash(self.ref):
                raise
            self.run("fetch", "--quiet", "--no-recurse-submodules", "--", self.url, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
            return self.run("rev-parse", "--verify", "--quiet", f"{self.ref}^{{commit}}").decode("ascii").strip()
        return self.run("rev-parse", "FETCH_HEAD^{commit}").decode("ascii").strip()

    def files(self, commit: str) -> list[tuple[str, int]]:
        """(path, bytes) of the commit's files and links; submodules have no content here."""
        found = []
        for line in self.run("ls-tree", "-r", "-z", "-l", "--full-tree", commit).split(b"\0"):
            if line:
                facts, _, path = line.partition(b"\t")
                _, kind, _, size = facts.split()
                if kind == b"blob":
                    found.append((path.decode("utf-8", "surrogateescape"), int(size)))
        return found

    def check_out(self, commit: str, paths: list[str], folder: Path) -> None:
        """Write these files of the commit below `folder`."""
        if paths:
            listing = self.place / "forge-paths"
            listing.write_bytes(b"\0".join(os.fsencode(path) for path in paths))
            self.run(
                "--work-tree", str(folder), "checkout", "--quiet", "--force", f"--pathspec-from-file={listing}", "--pathspec-file-nul", commit, within=folder
            )

    def run(self, *words: str, within: Path | None = None) -> bytes:
        """stdout of a git command. Raises ForgeError with git's own words."""
        options = [word for key, value in OFF.items() for word in ("-c", f"{key}={value}")]
        command = ["git", *options, "--git-dir", str(self.place), *words]
        with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as out:
            child = subprocess.Popen(
                command, cwd=within or self.place, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, start_new_session=True
            )
            try:
                code = self._wait(child)
            except BaseException:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                raise
            out.seek(0)
            errors.seek(0)
            if code:
                said = " ".join(errors.read(4000).decode("utf-8", "replace").split())
                raise ForgeError(f"git cannot bring {self.ref} of {self.url}", why=said or f"exit code {code}", next="check url and ref; git ls-remote URL lists what there is")
            return out.read()

    def _wait(self, child: subprocess.Popen[bytes]) -> int:
        deadline = time.monotonic() + self.seconds
        while True:
            try:
                return child.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                self.ctx.check_stop()
                if time.monotonic() > deadline:
                    raise ForgeError(f"git took longer than {self.seconds:g} s", why="timeout_seconds is the limit", next="raise timeout_seconds") from None


def _address(url: str, base: Path) -> tuple[str, bool]:
    """What git is given, and whether it is a local path."""
    scp_like = ":" in url.partition("/")[0]
    if "://" in url or scp_like:
        return url, False
    return str((base / Path(url).expanduser()).resolve()), True


def _environment(settings: GitSettings, ctx: Fetching, *, local: bool) -> dict[str, str]:
    """A clean one: no configuration but ours, no prompts, no protocol but the allowed ones. A token goes in by environment, not argv."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "SSH_AUTH_SOCK", "https_proxy", "http_proxy", "no_proxy", "SSL_CERT_FILE") if name in os.environ}
    found = {
        **kept, "LC_ALL": "C.UTF-8", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "",
        "GIT_SSH_COMMAND": "ssh -oBatchMode=yes", "GIT_ALLOW_PROTOCOL": "file" if local else ":".join(sorted(SCHEMES)), "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_NO_REPLACE_OBJECTS": "1", "GIT_LITERAL_PATHSPECS": "1",
    }
    if settings.token_env:
        if urlsplit(settings.url).scheme != "https":
            raise ForgeError("token_env works over https only", why="the token would travel unencrypted", next="write an https:// url, or use ssh with a key")
        token = base64.b64encode(f"{settings.user}:{ctx.secret(settings.token_env)}".encode()).decode("ascii")
        ctx.hide(token)
        # Bound to the server of the entry, so that a redirect elsewhere does not get it.
        server = "https://" + urlsplit(settings.url).netloc + "/"
        found |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"http.{server}.extraHeader", "GIT_CONFIG_VALUE_0": f"Authorization: Basic {token}"}
    return found


def _is_hash(ref: str) -> bool:
    return len(ref) in (40, 64) and all(char in "0123456789abcdef" for char in ref)


source = GitSource()
