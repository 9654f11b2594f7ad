"""A Hugging Face Hub small enough for a test: models that can be created, filled, compared, tagged, shown and read.

Speaks the routes that huggingface_hub 2.4 uses without Xet (HF_HUB_DISABLE_XET): whoami, create, settings, branches, tags,
validate-yaml, preupload, LFS batch and PUT, commit, tree, refs, resolve, list, delete. `breaks` says which requests fail, once each.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

WRITER, READER = "hf_writerwriterwriterwriter", "hf_readerreaderreaderreader"
FINE, NARROW = "hf_finefinefinefinefinefine", "hf_narrownarrownarrownarrow"
ROLES = {WRITER: ("ann", "write"), READER: ("ann", "read"), FINE: ("ann", "fineGrained"), NARROW: ("ann", "fineGrained")}
SCOPES = {FINE: ["repo.content.read", "repo.write"], NARROW: ["repo.content.read"]}
MAY_WRITE = {WRITER, FINE}
LARGE = (".gguf", ".safetensors")

Files = dict[str, str]
"""path -> sha256 of its bytes."""


@dataclass
class Repo:
    """One model, data set or Space: its branches as lists of commits (id, files), its tags, who may see it."""

    private: bool
    branches: dict[str, list[tuple[str, Files]]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat().replace("+00:00", "Z"))

    def at(self, revision: str) -> tuple[str, Files]:
        """The newest commit of a branch, or the commit of a tag or id."""
        if revision in self.branches:
            return self.branches[revision][-1]
        wanted = self.tags.get(revision, revision)
        return next(commit for commits in self.branches.values() for commit in commits if commit[0] == wanted)


@dataclass
class ModelHub:
    """What the server holds, and what happened to it, in order."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    breaks: set[int] = field(default_factory=set)   # numbers of writing requests that are answered with a broken line
    hides: bool = False   # lists do not show what there is
    writes: list[str] = field(default_factory=list)
    seen_in_public: list[Files] = field(default_factory=list)   # what main held each time that the repository was public

    def keep(self, data: bytes) -> str:
        """Store bytes under their hash."""
        sha256 = hashlib.sha256(data).hexdigest()
        self.blobs[sha256] = data
        return sha256


@contextmanager
def model_hub() -> Iterator[ModelHub]:
    """A running hub on loopback."""
    state, lock = ModelHub(), threading.RLock()

    class Handler(_Handler):
        hub = state

        def handle_one(self) -> None:
            with lock:
                self.route()
                state.seen_in_public += [repo.at("main")[1] for repo in state.repos.values() if not repo.private]

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def read_body(request: BaseHTTPRequestHandler) -> bytes:
    """What a request carries, in chunks or not."""
    if request.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length") or 0))
    found = b""
    while size := int(request.rfile.readline().split(b";")[0], 16):
        found += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: ModelHub

    def handle_one(self) -> None:
        """Under the lock."""

    def do_GET(self) -> None:
        self.data = read_body(self)
        if self.command != "GET" and self.command != "HEAD":
            self.hub.writes.append(f"{self.command} {self.path}")
            if len(self.hub.writes) in self.hub.breaks:
                self.close_connection = True
                self.connection.close()
                return
        self.handle_one()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def token(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        for pattern, answer in ROUTES:
            if (found := re.fullmatch(pattern, path)) is not None:
                answer(self, *found.groups())
                return
        self.reply(404, {"error": f"no route {self.command} {path}"})

    def reply(self, code: int, value: Any = None, headers: dict[str, str] | None = None, raw: bytes | None = None) -> None:
        data = raw if raw is not None else json.dumps(value).encode()
        self.send_response(code)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def find(self, name: str, *, write: bool = False) -> Repo | None:
        repo, (user, _) = self.hub.repos.get(name), ROLES.get(self.token(), ("", ""))
        owner = re.sub(PLACE, "", name).split("/")[0]
        if repo is None or (repo.private and user != owner):
            self.reply(404 if user else 401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        if write and (self.token() not in MAY_WRITE or user != owner):
            self.reply(403, {"error": "you have read access only"})
            return None
        return repo

    def whoami(self) -> None:
        user, role = ROLES.get(self.token(), ("", ""))
        if not user:
            self.reply(401, {"error": "Invalid credentials in Authorization header"})
            return
        told = {"type": "user", "name": user, "fullname": user, "orgs": [{"name": "harbour", "roleInOrg": "read"}]}
        access: dict[str, Any] = {"displayName": "t", "role": role}
        if self.token() in SCOPES:
            access["fineGrained"] = {"global": [], "scoped": [{"entity": {"type": "user", "name": user}, "permissions": SCOPES[self.token()]}]}
        self.reply(200, told | {"auth": {"type": "access_token", "accessToken": access}})

    def create(self) -> None:
        told, (user, _) = json.loads(self.data), ROLES.get(self.token(), ("", ""))
        kind = told.get("type") or "model"
        assert kind != "space" or told.get("sdk"), "a Space needs an sdk"
        name = f"{'' if kind == 'model' else kind + 's/'}{told.get('organization') or user}/{told['name']}"
        if self.token() not in MAY_WRITE:
            self.reply(403, {"error": "you have read access only"})
        elif name in self.hub.repos:
            self.reply(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
        else:
            private = bool(told.get("private")) or told.get("visibility") == "private"
            first = (hashlib.sha1(name.encode()).hexdigest(), {".gitattributes": self.hub.keep(b"*.gguf filter=lfs\n")})
            self.hub.repos[name] = Repo(private=private, branches={"main": [first]})
            self.reply(200, {"url": f"{self.hub.url}/{name}", "name": name, "id": "1"})

    def delete(self) -> None:
        told, (user, _) = json.loads(self.data), ROLES.get(self.token(), ("", ""))
        name = f"{told.get('organization') or user}/{told['name']}"
        if self.find(name, write=True) is not None:
            del self.hub.repos[name]
            self.reply(200, {})

    def list_models(self) -> None:
        """Two on a page: the rest is where the Link says."""
        asked = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
        user = ROLES.get(self.token(), ("", ""))[0]
        names = [
            name for name, repo in sorted(self.hub.repos.items())
            if name.count("/") == 1 and name.split("/")[0] == asked.get("author", name.split("/")[0]) and asked.get("search", "") in name
            and (not repo.private or user == name.split("/")[0]) and not self.hub.hides
        ]
        start = int(asked.pop("cursor", "0"))
        more = {"Link": f'<{self.hub.url}/api/models?{urlencode({**asked, "cursor": start + 2})}>; rel="next"'} if len(names) > start + 2 else {}
        rows = [{"_id": name, "id": name, "modelId": name, "private": self.hub.repos[name].private, "createdAt": self.hub.repos[name].created} for name in names[start:start + 2]]
        self.reply(200, rows, more)

    def validate_yaml(self) -> None:
        import yaml

        text = json.loads(self.data)["content"]
        front = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
        errors = []
        try:
            yaml.safe_load(front[1] if front else "")
        except yaml.YAMLError as error:
            errors.append({"message": str(error)})
        self.reply(400 if errors else 200, {"errors": errors, "warnings": []})

    def info(self, name: str, revision: str | None = None) -> None:
        if (repo := self.find(name)) is None:
            return
        commit, files = repo.at(revision or "main")
        card = {"_id": "1", "id": name, "modelId": name, "sha": commit, "private": repo.private, "tags": [], "gated": False}
        self.reply(200, card | {"siblings": [{"rfilename": path, "size": len(self.hub.blobs[sha])} for path, sha in files.items()]})

    def settings(self, name: str) -> None:
        if (repo := self.find(name, write=True)) is not None:
            told = json.loads(self.data)
            repo.private = told.get("visibility", "private" if told.get("private") else "public") == "private"
            self.reply(200, {"private": repo.private})

    def preupload(self, name: str, revision: str) -> None:
        if (repo := self.find(name, write=True)) is None:
            return
        files = repo.at(revision)[1]

        def known(path: str, large: bool) -> str | None:
            sha = files.get(path)
            return None if sha is None else sha if large else _git_hash(self.hub.blobs[sha])

        asked = [(one["path"], one["path"].endswith(LARGE)) for one in json.loads(self.data)["files"]]
        told = [{"path": p, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": known(p, large)} for p, large in asked]
        self.reply(200, {"files": told})

    def lfs_batch(self, name: str) -> None:
        if self.find(name, write=True) is None:
            return
        told = []
        for one in json.loads(self.data)["objects"]:
            entry = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.hub.blobs:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/_lfs/{one['oid']}", "header": {}}}
            told.append(entry)
        self.reply(200, {"transfer": "basic", "objects": told})

    def lfs_put(self, sha256: str) -> None:
        right = hashlib.sha256(self.data).hexdigest() == sha256
        if right:
            self.hub.keep(self.data)
        self.reply(200 if right else 422, {})

    def commit(self, name: str, revision: str) -> None:
        if (repo := self.find(name, write=True)) is None:
            return
        before, files = repo.at(revision)[0], dict(repo.at(revision)[1])
        for line in filter(None, self.data.decode().splitlines()):
            told = json.loads(line)
            value = told["value"]
            if told["key"] == "file":
                files[value["path"]] = self.hub.keep(base64.b64decode(value["content"]))
            elif told["key"] == "lfsFile":
                assert value["oid"] in self.hub.blobs, "committed before it was uploaded"
                files[value["path"]] = value["oid"]
            elif told["key"] == "deletedFile":
                files.pop(value["path"], None)
        oid = hashlib.sha1(json.dumps([before, files]).encode()).hexdigest()
        repo.branches[revision].append((oid, files))
        self.reply(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid, "success": True})

    def tree(self, name: str, revision: str) -> None:
        if (repo := self.find(name)) is None:
            return
        rows = []
        for path, sha in repo.at(revision)[1].items():
            data = self.hub.blobs[sha]
            row: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": _git_hash(data)}
            rows.append(row | ({"lfs": {"oid": sha, "size": len(data), "pointerSize": 134}} if path.endswith(LARGE) else {}))
        self.reply(200, rows)

    def branch(self, name: str, branch: str) -> None:
        if (repo := self.find(name, write=True)) is None:
            return
        if self.command == "DELETE":
            repo.branches.pop(branch, None)
        elif branch in repo.branches:
            self.reply(409, {"error": "Reference already exists"})
            return
        else:
            repo.branches[branch] = [repo.at("main")]
        self.reply(200, {})

    def tag(self, name: str, revision: str) -> None:
        if (repo := self.find(name, write=True)) is None:
            return
        wanted = json.loads(self.data)["tag"]
        if wanted in repo.tags:
            self.reply(409, {"error": "Tag reference exists already"})
            return
        repo.tags[wanted] = repo.at(revision)[0]
        self.reply(200, {})

    def refs(self, name: str) -> None:
        if (repo := self.find(name)) is not None:
            branches = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": c[-1][0]} for b, c in repo.branches.items()]
            self.reply(200, {"branches": branches, "converts": [], "tags": []})

    def resolve(self, name: str, revision: str, path: str) -> None:
        if (repo := self.find(name)) is None:
            return
        commit, files = repo.at(revision)
        if path not in files:
            self.reply(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        data = self.hub.blobs[files[path]]
        etag = files[path] if path.endswith(LARGE) else _git_hash(data)
        self.reply(200, headers={"X-Repo-Commit": commit, "ETag": f'"{etag}"', "X-Linked-Size": str(len(data))}, raw=data)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


PLACE = r"^(?:datasets|spaces)/"
NAME, REVISION = r"((?:(?:datasets|spaces)/)?[^/]+/[^/]+?)", r"([^/]+)"
API = r"/api/(?:models/)?"
"""A model's address in the interface has "models/" before its name; data sets and Spaces are kept with theirs."""
ROUTES = (
    (r"/api/whoami-v2", _Handler.whoami),
    (r"/api/repos/create", _Handler.create),
    (r"/api/repos/delete", _Handler.delete),
    (r"/api/models", _Handler.list_models),
    (r"/api/validate-yaml", _Handler.validate_yaml),
    (rf"/{NAME}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (r"/_lfs/([0-9a-f]{64})", _Handler.lfs_put),
    (rf"{API}{NAME}/settings", _Handler.settings),
    (rf"{API}{NAME}/preupload/{REVISION}", _Handler.preupload),
    (rf"{API}{NAME}/commit/{REVISION}", _Handler.commit),
    (rf"{API}{NAME}/tree/{REVISION}", _Handler.tree),
    (rf"{API}{NAME}/branch/{REVISION}", _Handler.branch),
    (rf"{API}{NAME}/tag/{REVISION}", _Handler.tag),
    (rf"{API}{NAME}/refs", _Handler.refs),
    (rf"{API}{NAME}/revision/{REVISION}", _Handler.info),
    (rf"{API}{NAME}", _Handler.info),
    (rf"/{NAME}/resolve/{REVISION}/(.+)", _Handler.resolve),
)


def _git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
