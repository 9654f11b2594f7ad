"""Web addresses, git repositories, S3 prefixes and Hugging Face datasets as sources, each against a real local server."""

from __future__ import annotations

import gzip
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from forge.errors import ForgeError, MissingAccess, UsageError
from forge.plugins.sources import web
from forge.plugins.sources._files import Names
from tests.servers.hub import COMMIT, TOKEN, hub
from tests.test_plugins.sources_world import World

Answer = tuple[int, dict[str, str], bytes]


class Site:
    """A web server whose pages are functions; `asked` holds (path, headers) of every request."""

    def __init__(self) -> None:
        self.pages: dict[str, Callable[[Any], Answer]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.url = ""

    def page(self, path: str, body: bytes, code: int = 200, **headers: str) -> str:
        """Serve `body` at `path`; returns its address."""
        self.pages[path] = lambda request: (code, {name.replace("_", "-"): value for name, value in headers.items()}, body)
        return self.url + path


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A running Site; retries do not pause."""
    monkeypatch.setattr(web, "PAUSE_SECONDS", 0.0)
    place = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            place.asked.append((self.path, dict(self.headers)))
            code, headers, body = place.pages.get(self.path, lambda request: (404, {}, b"nothing"))(self)
            self.send_response(code)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    place.url = f"http://127.0.0.1:{server.server_port}"
    yield place
    server.shutdown()
    server.server_close()


def http(*urls: str, **more: Any) -> dict[str, Any]:
    return {"name": "pages", "kind": "http", "urls": list(urls), **more}


# --- http ------------------------------------------------------------------------------------------------------


def test_addresses_become_files_named_by_host_path_and_type(tmp_path: Path, site: Site) -> None:
    host = site.url.removeprefix("http://").replace(":", "_")
    world = World(tmp_path, http(
        site.page("/docs/a.md", b"# A"), site.page("/", b"<p>home</p>", Content_Type="text/html; charset=utf-8"),
        site.page("/item?id=1", b"one", Content_Type="text/plain"), site.page("/item?id=2", b"two", Content_Type="text/plain"),
        site.page("/v1.2", b"{}", Content_Type="application/json"), site.page("/show.php", b"<p>shown</p>", Content_Type="text/html"),
    ))
    world.bring()
    assert world.texts() == {
        f"pages/{host}/docs/a.md": "# A", f"pages/{host}/index.html": "<p>home</p>", f"pages/{host}/item-d9fc91d4.txt": "one",
        f"pages/{host}/item-25d0c83e.txt": "two", f"pages/{host}/v1.2.json": "{}", f"pages/{host}/show.php.html": "<p>shown</p>",
    }


def test_an_unchanged_page_is_not_downloaded_again(tmp_path: Path, site: Site) -> None:
    def page(request: Any) -> Answer:
        if request.headers.get("If-None-Match") == '"v1"':
            return 304, {"Content-Length": "0"}, b""
        return 200, {"ETag": '"v1"'}, b"text"

    site.pages["/a.txt"] = page
    world = World(tmp_path, http(site.url + "/a.txt"))
    first = world.bring()
    assert world.bring() == first
    assert len(site.asked) == 1   # the snapshot is there
    assert world.bring(refetch=True) == first
    assert site.asked[1][1]["If-None-Match"] == '"v1"'
    assert list(world.texts().values()) == ["text"]


def test_a_server_that_recovers_is_asked_again_and_one_that_does_not_is_told(tmp_path: Path, site: Site) -> None:
    def flaky(request: Any) -> Answer:
        return (503, {"Retry-After": "0"}, b"") if len(site.asked) < 3 else (200, {}, b"there")

    site.pages["/a.txt"] = flaky
    world = World(tmp_path, http(site.url + "/a.txt"))
    world.bring()
    assert list(world.texts().values()) == ["there"]
    world.write(http(site.page("/b.txt", b"", 500) + "?token_free=1"))
    site.page("/b.txt?token_free=1", b"", 500)
    with pytest.raises(ForgeError, match=r'source "pages": http://127.0.0.1:\d+/b.txt answers 500'):
        world.bring()
    assert list(world.texts().values()) == ["there"]   # the old snapshot stays


def test_a_body_that_ends_early_is_no_document(tmp_path: Path, site: Site) -> None:
    site.page("/a.txt", b"half", Content_Length="8")
    with pytest.raises(ForgeError, match="cannot be downloaded") as caught:
        World(tmp_path, http(site.url + "/a.txt")).bring()
    assert "IncompleteRead" in caught.value.why
    assert len(site.asked) == 4


def test_compressed_bodies_are_unpacked_up_to_the_cap(tmp_path: Path, site: Site) -> None:
    world = World(tmp_path, http(site.page("/a.txt", gzip.compress(b"plain"), Content_Encoding="gzip")))
    world.bring()
    assert list(world.texts().values()) == ["plain"]
    bomb = gzip.compress(bytes(50_000_000))
    world.write(http(site.page("/b.txt", bomb, Content_Encoding="gzip"), max_bytes=1_000_000))
    with pytest.raises(ForgeError, match="more than 1,000,000 bytes"):
        world.bring()


def test_redirects_stay_on_the_web_and_take_no_credentials_along(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE_PASSWORD", "open-sesame-77")
    other = site.url.replace("127.0.0.1", "localhost")
    site.page("/end.txt", b"end")
    world = World(tmp_path, http(site.page("/start", b"", 302, Location=f"{other}/end.txt"), user="reader", password_env="SITE_PASSWORD"))
    world.bring()
    assert [("Authorization" in headers, path) for path, headers in site.asked] == [(True, "/start"), (False, "/end.txt")]
    written = world.everything_written()
    assert b"open-sesame-77" not in written
    assert b"cmVhZGVyOm9wZW4tc2VzYW1lLTc3" not in written
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/"):
        world.write(http(site.page("/bad", b"", 302, Location=target)))
        with pytest.raises(ForgeError):
            world.bring()
    world.write(http(site.page("/loop", b"", 302, Location="/loop")))
    with pytest.raises(ForgeError):
        world.bring()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "/etc/passwd", "http://"])
def test_only_web_addresses_are_taken(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError):
        World(tmp_path, http(url)).bring()


def test_a_header_from_the_environment_is_sent_and_never_shown(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "Bearer t0p-s3cret-value")

    def page(request: Any) -> Answer:
        return (401, {}, b"") if request.headers.get("X-Api") != "Bearer t0p-s3cret-value" else (200, {}, b"in")

    site.pages["/a.txt"] = page
    world = World(tmp_path, http(site.url + "/a.txt", headers_env={"X-Api": "API_TOKEN"}))
    world.bring()
    assert list(world.texts().values()) == ["in"]
    assert b"t0p-s3cret-value" not in world.everything_written()


def test_a_preview_shows_the_beginnings(tmp_path: Path, site: Site) -> None:
    found = World(tmp_path, http(site.page("/a.txt", b"alpha " * 1000), site.page("/b.bin", bytes(range(256))))).preview()
    assert (found.files, found.bytes) == (2, 6256)
    assert [sample.text[:12] for sample in found.samples] == ["alpha alpha ", "(bin file)"]


# --- git -------------------------------------------------------------------------------------------------------


def git(place: Path, *words: str) -> str:
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b", "GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run(["git", "-c", "protocol.file.allow=always", *words], cwd=place, capture_output=True, text=True, check=True, env={**os.environ, **who})
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A bare repository with two commits, a hook, a filter, a submodule and a link out of the tree."""
    work, sub, bare = tmp_path / "work", tmp_path / "sub", tmp_path / "bare.git"
    for place in (work, sub):
        place.mkdir()
        git(place, "init", "-q", "-b", "main")
    (sub / "inner.md").write_text("inner", encoding="utf-8")
    git(sub, "add", ".")
    git(sub, "commit", "-qm", "sub")
    (work / "README.md").write_text("old\n", encoding="utf-8")
    git(work, "add", ".")
    git(work, "commit", "-qm", "one")
    git(work, "tag", "v1")
    (work / "README.md").write_text("new\r\nline\n", encoding="utf-8", newline="")
    (work / "docs").mkdir()
    (work / "docs" / "ä b.md").write_text("guide", encoding="utf-8")
    (work / "model.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", encoding="utf-8")
    (work / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n*.md filter=evil\n", encoding="utf-8")
    (work / "leak.md").symlink_to("/etc/passwd")
    git(work, "submodule", "-q", "add", str(sub), "sub")
    git(work, "add", ".")
    git(work, "commit", "-qm", "two")
    git(tmp_path, "clone", "-q", "--bare", str(work), str(bare))
    hook = bare / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/hooked\n", encoding="utf-8")
    hook.chmod(0o755)
    return bare


def test_a_repository_is_read_at_one_commit(tmp_path: Path, repository: Path) -> None:
    world = World(tmp_path, {"name": "code", "kind": "git", "url": "bare.git"})
    entries = world.bring()
    assert {entry.path: entry.kind for entry in entries} == {
        "code/.gitattributes": "file", "code/.gitmodules": "file", "code/README.md": "file", "code/docs/ä b.md": "file",
        "code/leak.md": "symlink", "code/model.bin": "file",
    }
    assert (world.root / "code" / "README.md").read_bytes() == b"new\r\nline\n"
    assert world.manifest("code")["facts"] == {"commit": git(repository, "rev-parse", "main")}
    assert not (tmp_path / "hooked").exists()
    assert not list((tmp_path / "run" / "sources").glob("*git*"))


@pytest.mark.parametrize("ref", ["v1", "commit"])
def test_a_tag_or_a_commit_can_be_named(tmp_path: Path, repository: Path, ref: str) -> None:
    named = git(repository, "rev-parse", "v1^{commit}") if ref == "commit" else ref
    world = World(tmp_path, {"name": "code", "kind": "git", "url": str(repository), "ref": named})
    world.bring()
    assert world.texts() == {"code/README.md": "old\n"}


@pytest.fixture
def git_site(site: Site, repository: Path) -> str:
    """The repository over smart HTTP, through git's own http-backend; gives its address."""

    def backend(request: Any) -> Answer:
        path, _, query = request.path.partition("?")
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        environment = {
            "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(repository.parent), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path, "QUERY_STRING": query,
            "REQUEST_METHOD": request.command, "CONTENT_TYPE": request.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(body)),
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""), "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
        }
        done = subprocess.run(["git", "http-backend"], input=body, capture_output=True, check=True, env=environment)
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode("ascii").splitlines())
        return int(headers.pop("Status", "200").split()[0]), headers, answer

    for path in ("/bare.git/info/refs?service=git-upload-pack", "/bare.git/git-upload-pack"):
        site.pages[path] = backend
    return f"{site.url}/bare.git"


def test_a_repository_is_read_over_http(tmp_path: Path, repository: Path, git_site: str) -> None:
    world = World(tmp_path, {"name": "code", "kind": "git", "url": git_site, "ref": "main", "include": ["*.md"], "exclude": ["leak.md"]})
    assert [entry.path for entry in world.bring()] == ["code/README.md", "code/docs/ä b.md"]
    assert world.manifest("code")["facts"] == {"commit": git(repository, "rev-parse", "main")}


def test_include_and_exclude_choose_files_of_a_repository(tmp_path: Path, repository: Path) -> None:
    world = World(tmp_path, {"name": "code", "kind": "git", "url": "bare.git", "include": ["*.md"], "exclude": ["leak*"]})
    assert [entry.path for entry in world.bring()] == ["code/README.md", "code/docs/ä b.md"]
    found = world.preview()
    assert (found.files, found.bytes, [sample.place for sample in found.samples]) == (2, 15, ["README.md", "docs/ä b.md"])


@pytest.mark.parametrize("url", ["ext::sh -c 'touch hacked'", "--upload-pack=touch hacked", "file:///etc", "fd::3", "a\nb"])
def test_a_url_that_runs_programs_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError):
        World(tmp_path, {"name": "code", "kind": "git", "url": url}).bring()
    assert not (tmp_path / "hacked").exists()


def test_a_ref_that_is_not_there_is_told_in_git_s_words(tmp_path: Path, repository: Path) -> None:
    with pytest.raises(ForgeError, match='source "code"') as caught:
        World(tmp_path, {"name": "code", "kind": "git", "url": "bare.git", "ref": "nowhere"}).bring()
    assert "couldn't find remote ref nowhere" in caught.value.why


def test_a_token_goes_over_https_only_and_not_through_the_command_line(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TOKEN", "tok3n-tok3n-tok3n")
    entry = {"name": "code", "kind": "git", "url": f"{site.url}/x.git", "token_env": "GIT_TOKEN"}
    with pytest.raises(ForgeError, match="https only"):
        World(tmp_path, entry).bring()
    assert site.asked == []
    world = World(tmp_path, {**entry, "url": f"https://{site.url.removeprefix('http://')}/x.git"})
    with pytest.raises(ForgeError) as caught:
        world.bring()
    assert "tok3n" not in str(caught.value)


# --- s3 --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """moto's S3 over HTTP."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """A client for a bucket of the test's own, with keys in the environment."""
    import boto3

    for name, value in {"AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST", "AWS_SECRET_ACCESS_KEY": "s3-secret-s3-secret", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket=request.node.name.replace("_", "-")[:60].rstrip("-"))
    return client


def s3(client: Any, request: pytest.FixtureRequest, **more: Any) -> dict[str, Any]:
    return {"name": "store", "kind": "s3", "bucket": request.node.name.replace("_", "-")[:60].rstrip("-"), "endpoint_url": client.meta.endpoint_url, **more}


def put(client: Any, request: pytest.FixtureRequest, objects: dict[str, bytes]) -> None:
    for key, body in objects.items():
        client.put_object(Bucket=s3(client, request)["bucket"], Key=key, Body=body)


def test_objects_below_a_prefix_come_with_safe_names(tmp_path: Path, bucket: Any, request: pytest.FixtureRequest) -> None:
    put(bucket, request, {"docs/a.md": b"a", "docs/sub/b.TXT": b"b", "docs/": b"", "docs/../../evil.md": b"e", "docs/c.bin": b"c", "other/d.md": b"d"})
    world = World(tmp_path, s3(bucket, request, prefix="docs/", suffixes=[".md", ".txt"]))
    world.bring()
    assert world.texts() == {"store/a.md": "a", "store/evil.md": "e", "store/sub/b.TXT": "b"}
    assert not (tmp_path / "evil.md").exists()
    assert b"s3-secret" not in world.everything_written()


def test_more_objects_than_one_page_are_listed_and_unchanged_ones_kept(
    tmp_path: Path, bucket: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forge.plugins.sources.s3.PAGE_KEYS", 10)
    put(bucket, request, {f"k{number:04d}.txt": b"x" for number in range(25)})
    entry = s3(bucket, request)
    found = World(tmp_path, entry).preview()
    assert (found.files, found.bytes, [sample.place for sample in found.samples]) == (25, 25, ["k0000.txt", "k0001.txt", "k0002.txt"])
    world = World(tmp_path, {**entry, "include": ["k000?.txt"]})
    world.bring()
    kept = world.root / "store" / "k0003.txt"
    kept.write_text("y", encoding="utf-8")   # the same length: what is kept is not downloaded
    put(bucket, request, {"k0005.txt": b"new"})
    world.bring(refetch=True)
    assert (world.texts()["store/k0003.txt"], world.texts()["store/k0005.txt"]) == ("y", "new")


def test_a_bucket_that_is_not_there_and_missing_keys_are_told(tmp_path: Path, bucket: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ForgeError, match='source "store"') as caught:
        World(tmp_path, {**s3(bucket, request), "bucket": "nowhere"}).bring()
    assert "NoSuchBucket" in caught.value.why
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(MissingAccess, match="no credentials"):
        World(tmp_path, s3(bucket, request)).bring()


def test_more_bytes_than_the_cap_are_an_error(tmp_path: Path, bucket: Any, request: pytest.FixtureRequest) -> None:
    put(bucket, request, {"a": b"12345", "b": b"12345"})
    with pytest.raises(ForgeError, match="more than 9 bytes"):
        World(tmp_path, s3(bucket, request, max_bytes=9)).bring()


# --- Hugging Face ----------------------------------------------------------------------------------------------

FILES = {"README.md": b"# Data", "data/train.jsonl": b'{"question": "q", "answer": "a"}\n', "data/big.bin": b"\x00" * 64, "load.py": b"raise SystemExit"}


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client as outside of the tests, which set HF_HUB_OFFLINE."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


def test_a_dataset_is_read_at_the_commit_of_its_revision(tmp_path: Path, online: None) -> None:
    with hub("lab/notes", FILES) as (address, asked):
        world = World(tmp_path, {"name": "hub", "kind": "huggingface", "repo": "lab/notes", "endpoint_url": address, "include": ["data/*", "README.md"], "exclude": ["*.bin"]})
        assert [entry.path for entry in world.bring()] == ["hub/README.md", "hub/data/train.jsonl"]
        assert world.texts()["hub/data/train.jsonl"] == '{"question": "q", "answer": "a"}\n'
        assert world.manifest("hub")["facts"] == {"commit": COMMIT}
        assert not [path for path in asked if "big.bin" in path or "load.py" in path]
        found = world.preview(2)
        assert (found.files, found.bytes, [sample.place for sample in found.samples]) == (2, 39, ["README.md", "data/train.jsonl"])


def test_a_private_dataset_needs_the_token_that_is_named(tmp_path: Path, online: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_HUB_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with hub("lab/notes", FILES, private=True) as (address, _):
        entry = {"name": "hub", "kind": "huggingface", "repo": "lab/notes", "endpoint_url": address, "include": ["README.md"]}
        with pytest.raises(MissingAccess, match="not there for you"):
            World(tmp_path, entry).bring()
        world = World(tmp_path, {**entry, "token_env": "MY_HUB_TOKEN"})
        world.bring()
        assert world.texts() == {"hub/README.md": "# Data"}
        assert TOKEN.encode() not in world.everything_written()


# --- names -----------------------------------------------------------------------------------------------------


def test_names_are_safe_and_never_clash() -> None:
    names = Names()
    made = [names.of(wanted) for wanted in ("a", "a/b", "a", "../../x", "c\x00:d", "/" + "é" * 300 + ".pdf", "..", "")]
    assert len(set(made)) == len(made)
    assert not any(part in ("..", ".", "") or len(part.encode()) > 255 for name in made for part in name.split("/"))
    assert made[0] == "a"
    assert made[1].startswith("a_b-")
    assert made[3:5] == ["x", "c__d"]
    assert made[5].endswith(".pdf")
