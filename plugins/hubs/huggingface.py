"""The Hugging Face Hub, or anything that speaks its protocol (HF_ENDPOINT), with huggingface_hub.

A new repository is private until every file in it has been compared with ours; only then it may become public. A public
repository gets the files on a branch first, where they are compared; one commit then moves them to main. One commit holds
all files, so a reader never sees half a model. What was uploaded before an interruption is found again by its hash.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from forge.errors import ArtifactDamaged, ForgeError, MissingAccess, UsageError
from forge.phase import Requirement
from forge.protocols import Published, Shipment

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MAIN = "main"
BRANCH = "forge-staging"
KEPT = {".gitattributes"}
"""Files that the hub itself puts into a repository."""

MARK = "SHA256SUMS"
"""A repository with files, but without this one, was filled by somebody else."""

ATTEMPTS, FIRST_PAUSE = 4, 1.0
ROLES = {"write", "admin", "contributor"}
PLACES = {"model": "", "dataset": "datasets/", "space": "spaces/"}
WRITES = "repo.write"
"""What a fine-grained token must be allowed for an owner."""

T = TypeVar("T")
Kind = Literal["model", "dataset", "space"]


class HuggingFaceHub:
    """Private, upload, compare, tag, and only then public."""

    name: ClassVar[str] = "huggingface"
    requires: ClassVar[tuple[Requirement, ...]] = (Requirement(module="huggingface_hub", extra="publish"),)

    def preflight(self, repo: str, name: str, kind: Kind = "model") -> str:
        """The repository that this machine's token may write: `repo`, or the token's owner and `name`; free, or ours."""
        api = _api()
        found = _repo_id(api, repo, name)
        if repo or name:
            _refuse_foreign(found, _files(api, found, kind))
        return found

    def publish(self, shipment: Shipment) -> Published:
        """Bring the folder up; the same folder again changes nothing."""
        api = _api()
        repo = _repo_id(api, shipment.repo, shipment.name)
        upload = _Upload(api, repo, shipment)
        upload.open()
        commit = upload.send_staged() if upload.is_public else upload.send(MAIN)
        upload.compare(MAIN)
        kind = shipment.kind
        _try(lambda: api.create_tag(repo, tag=shipment.tag, revision=commit, exist_ok=True, repo_type=kind))
        if shipment.visibility == "public" and not upload.is_public:
            _try(lambda: api.update_repo_settings(repo, private=False, repo_type=kind))
        visibility = "public" if upload.is_public else shipment.visibility
        return Published(url=f"{api.endpoint}/{PLACES[kind]}{repo}", repo=repo, commit=commit, tag=shipment.tag, visibility=visibility)


hub = HuggingFaceHub()


class _Upload:
    """One repository and the folder that it shall hold."""

    def __init__(self, api: HfApi, repo: str, shipment: Shipment) -> None:
        self.api, self.repo, self.shipment = api, repo, shipment
        self.files = sorted(path for path in shipment.folder.rglob("*") if path.is_file())
        self.is_public = False

    def open(self) -> None:
        """Make the repository, private, or find it. Raises UsageError when it holds something else."""
        kind = self.shipment.kind
        sdk = {"space_sdk": "gradio"} if kind == "space" else {}
        _try(lambda: self.api.create_repo(self.repo, private=True, exist_ok=True, repo_type=kind, **sdk))
        info: Any = _try(lambda: self.api.repo_info(self.repo, repo_type=kind))
        self.is_public = not info.private
        _refuse_foreign(self.repo, {sibling.rfilename for sibling in info.siblings or []} - KEPT)

    def send_staged(self) -> str:
        """Upload to a branch, compare there, and take the compared files to main; the commit."""
        _try(lambda: self.api.create_branch(self.repo, branch=BRANCH, exist_ok=True, repo_type=self.shipment.kind))
        self.send(BRANCH)
        self.compare(BRANCH)
        commit = self.send(MAIN)
        _try(lambda: self.api.delete_branch(self.repo, branch=BRANCH, repo_type=self.shipment.kind))
        return commit

    def send(self, branch: str) -> str:
        """One commit with every file that differs, and without those that are no longer ours."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        folder, kind = self.shipment.folder, self.shipment.kind
        ours = {path.relative_to(folder).as_posix(): path for path in self.files}

        def commit() -> str:
            self.shipment.check_stop()
            there = set(self.api.list_repo_files(self.repo, revision=branch, repo_type=kind)) - KEPT
            # Built anew for each attempt: the library writes into them.
            operations: list[Any] = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in ours.items()]
            operations += [CommitOperationDelete(path_in_repo=name) for name in sorted(there - set(ours))]
            told = self.api.create_commit(self.repo, operations, commit_message=self.shipment.message, revision=branch, repo_type=kind)
            return str(told.oid)

        return _try(commit)

    def compare(self, branch: str) -> None:
        """Every file of the repository has our hash. Raises ArtifactDamaged; nothing has become visible by then."""
        told = _try(lambda: self.api.verify_repo_checksums(self.repo, local_dir=self.shipment.folder, revision=branch, repo_type=self.shipment.kind))
        wrong = [mismatch["path"] for mismatch in told.mismatches] + list(told.extra_paths)
        wrong += [path for path in told.missing_paths if path not in KEPT]
        if wrong:
            raise ArtifactDamaged(
                f"{self.repo} does not hold what was sent", why=f"{', '.join(sorted(wrong)[:5])} differ", next="forge resume",
            )


def _api() -> HfApi:
    from huggingface_hub import HfApi, constants

    # Read at call time: the library itself reads the variable only when it is imported.
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or constants.ENDPOINT)


def _repo_id(api: HfApi, repo: str, name: str) -> str:
    told = _try(api.whoami)
    user, role = str(told["name"]), str(told.get("auth", {}).get("accessToken", {}).get("role", "write"))
    if role == "read":
        raise MissingAccess(
            "the hub's token may only read", why=f"it belongs to {user}", next="export HF_TOKEN=… with write access, then forge resume",
        )
    wanted = repo or name
    owner, _, rest = wanted.rpartition("/")
    owners = _owners(user, told)
    if (owner or user) not in owners:
        raise MissingAccess(
            f"the hub's token may not publish for {owner or user}",
            why=f"it belongs to {user}; it may for {', '.join(sorted(owners)) or 'nobody'}",
            next="forge resume --set publish.repo=OWNER/NAME, or another HF_TOKEN",
        )
    return f"{owner or user}/{rest}" if rest else owner or user


def _owners(user: str, told: dict[str, Any]) -> set[str]:
    """Whom the token may write for: its user and organisations, or those that a fine-grained one names."""
    owners = {user} | {str(org["name"]) for org in told.get("orgs", []) if str(org.get("roleInOrg", "write")) in ROLES}
    scoped = told.get("auth", {}).get("accessToken", {}).get("fineGrained", {}).get("scoped")
    if scoped is None:
        return owners
    return owners & {str(one["entity"].get("name")) for one in scoped if WRITES in one.get("permissions", ())}


def _files(api: HfApi, repo: str, kind: Kind) -> set[str]:
    """The files of a repository; none when there is no such one yet."""
    from huggingface_hub.errors import RepositoryNotFoundError

    def ask() -> set[str]:
        try:
            return set(api.list_repo_files(repo, repo_type=kind)) - KEPT
        except RepositoryNotFoundError:
            return set()

    return _try(ask)


def _refuse_foreign(repo: str, found: set[str]) -> None:
    if found and MARK not in found:
        raise UsageError(
            f"{repo} holds {len(found)} files that slm-forge did not publish", why="they would be replaced",
            next="forge resume --set publish.repo=OWNER/OTHER-NAME",
        )


def _try(act: Callable[[], T]) -> T:
    """act(), again after a pause when the hub or the line failed; other refusals in words."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    for attempt in range(1, ATTEMPTS + 1):
        try:
            return act()
        except LocalTokenNotFoundError as error:
            raise _no_token("there is none on this machine") from error
        except OfflineModeIsEnabled as error:
            raise MissingAccess(
                "HF_HUB_OFFLINE forbids to publish", next="unset HF_HUB_OFFLINE, or forge resume --set plan_fit.hub=local"
            ) from error
        except HfHubHTTPError as error:
            if attempt == ATTEMPTS or not _passes(error):
                raise _refusal(error) from error
        except (httpx2.TransportError, OSError, RuntimeError) as error:   # uploads of large files raise RuntimeError around it
            if attempt == ATTEMPTS:
                raise ForgeError(
                    "the hub cannot be reached", why=f"{type(error).__name__}: {error}"[:200],
                    next="forge resume goes on with what is not uploaded yet",
                ) from error
        time.sleep(FIRST_PAUSE * 2 ** (attempt - 1))
    raise AssertionError


def _passes(error: Any) -> bool:
    """True for what may be gone in a moment: overload, a fault of the server, a commit by somebody else in between."""
    status = _status(error)
    return status in (408, 409, 412, 429) or status >= 500


def _refusal(error: Any) -> ForgeError:
    status, words = _status(error), str(getattr(error, "server_message", "") or error).strip().splitlines()[0][:200]
    if status == 401:
        return _no_token("the hub does not accept it")
    if status == 403:
        return MissingAccess("the hub refuses to write", why=words, next="export HF_TOKEN=… with write access, then forge resume")
    return ForgeError(f"the hub answers {status}", why=words, next="forge resume goes on with what is not uploaded yet")


def _no_token(why: str) -> MissingAccess:
    return MissingAccess("publishing needs a token of the hub", why=why, next="export HF_TOKEN=… with write access, then forge resume")


def _status(error: Any) -> int:
    response = getattr(error, "response", None)
    return int(getattr(response, "status_code", 0) or 0)
