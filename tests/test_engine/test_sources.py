"""sources.yaml: what is wrong in it is told with the nearest spelling; snapshots are taken once; no secret is written or shown."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from forge.children import worker_environment
from forge.corpus import locate
from forge.credentials import HIDDEN, Secrets, check_no_secrets
from forge.errors import ForgeError, Interrupted, MissingAccess, UsageError
from forge.previews import preview_sources
from forge.records import CorpusEntry
from forge.registry import Registry
from forge.snapshots import Snapshots
from forge.sources import corpus_label, is_source_list, read_sources
from forge.testing import tiny_corpus

PLUGIN = '''
from pathlib import Path
from forge.errors import ForgeError, Interrupted
from forge.phase import Settings
from forge.protocols import Preview, Sample


class Words(Settings):
    words: tuple[str, ...] = ()
    fail: str = ""
    key_env: str = ""


class Toy:
    name = "toy"
    requires = ()
    settings = Words

    def fetch(self, settings, folder, ctx):
        Path("fetches").open("a").write(" ".join(settings.words) + "\\n")
        key = ctx.secret(settings.key_env) if settings.key_env else ""
        for number, word in enumerate(settings.words):
            (folder / f"{number}.txt").write_text(word)
        if settings.fail == "interrupt":
            raise Interrupted
        if settings.fail == "forge":
            raise ForgeError("it broke with " + key, why="the key is " + key, next="mend " + key)
        if settings.fail:
            raise RuntimeError("cannot use postgresql://me:" + key + "@host/db")
        return {"said": "the key was " + key, "urls": {"http://me:" + key + "@h/": 1}}

    def preview(self, settings, samples, ctx):
        key = ctx.secret(settings.key_env) if settings.key_env else ""
        if settings.fail:
            raise RuntimeError("no " + key)
        return Preview(files=len(settings.words), samples=(Sample(place="0.txt", text="key " + key + " " + "x" * 999),))


source = Toy()
'''


@pytest.fixture
def registry(work: Path) -> Registry:
    """A registry with a source of kind "toy", which counts its fetches in the file `fetches`."""
    return Registry((tiny_corpus(work / "plugins", {"toy.py": PLUGIN}),))


def yaml_file(work: Path, text: str) -> Path:
    file = work / "sources.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def toys(work: Path, *lines: str) -> Path:
    return yaml_file(work, "version: 1\nsources:\n" + "".join(f"  - {{{line}}}\n" for line in lines))


def bring(work: Path, registry: Registry, *, refetch: bool = False) -> Snapshots:
    (work / "run").mkdir(exist_ok=True)
    file = work / "sources.yaml"
    snapshots = Snapshots(work / "run", file, read_sources(file, registry))
    snapshots.bring(refetch=refetch)
    return snapshots


def listing(snapshots: Snapshots) -> list[CorpusEntry]:
    return list(snapshots.entries(None, leave_out=Path("/nowhere")))


def fetches() -> list[str]:
    return Path("fetches").read_text(encoding="utf-8").splitlines() if Path("fetches").exists() else []


# --- parsing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "said"), [
    ("a: [", "is not YAML"), ("- a\n", "lists no sources"), ("version: 1\n", "lists no sources"), ("version: 2\nsources: [{name: a, kind: file}]", "no version"),
    ("sources: [{name: a, kind: file, path: x}]", "no version"), ("version: 1\nsources: []", "lists no sources"), ("version: 1\nsource: []\nsources: [1]", 'unknown key "source"'),
    ("version: 1\nsources: [3]", "is not a mapping"), ("version: 1\nsources: [{kind: file}]", "no usable name"), ("version: 1\nsources: [{name: ../a, kind: file}]", "no usable name"),
    ("version: 1\nsources: [{name: a}]", "has no kind"), ("version: 1\nsources: [{name: a, kind: floder}]", 'did you mean "folder"?'),
    ("version: 1\nsources: [{name: a, kind: folder, pth: x}]", 'did you mean "path"?'), ("version: 1\nsources: [{name: a, kind: folder}]", 'needs "path"'),
    ("version: 1\nsources: [{name: a, kind: toy, words: 3}]", "words cannot be that"),
    ("version: 1\nsources: [{name: a, kind: toy}, {name: a, kind: toy}]", 'two sources are called "a"'),
    ("version: 1\nsources: [{name: a, kind: toy, kind: file}]", 'the key "kind" stands twice'),
    ("version: 1\nsources:\n  - {name: db, kind: sqlite, path: x, queries: [{nme: a, query: SELECT 1}]}", 'did you mean "name"?'),
    ("version: 1\nsources:\n  - {name: db, kind: sqlite, path: x, query: SELECT a, b FROM t}", "a value with a comma inside { } needs quotes"),
    ("version: 1\nsources:\n  - {name: db, kind: sqlite, path: x}", "write either query:"),
    ("version: 1\nsources:\n  - {name: db, kind: postgresql, query: SELECT 1}", "write one of url_env:"),
])
def test_what_is_wrong_is_told(work: Path, registry: Registry, text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_sources(yaml_file(work, text), registry)
    assert said in str(caught.value)
    assert caught.value.next


def test_only_yaml_is_a_list_of_sources(work: Path) -> None:
    tiny_corpus(work, {"sources.yaml": "", "lab.YML": "", "a.jsonl": "", "folder.yaml/x": ""})
    assert [name for name in ("sources.yaml", "lab.YML", "a.jsonl", "folder.yaml", "no.yaml") if is_source_list(work / name)] == ["sources.yaml", "lab.YML"]
    assert (corpus_label(work / "sources.yaml"), corpus_label(work / "lab.YML")) == (work.name, "lab")


# --- secrets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", [
    "{kind: postgresql, password: Hunter2!}", "{kind: postgresql, url: 'postgresql://me:Hunter2!@h/d'}", "{kind: http, urls: ['https://a/b', 'https://Hunter2!@h/x']}",
    "{kind: git, url: 'https://Hunter2!@github.com/a/b'}", "{kind: http, urls: ['https://h/x?sig=Hunter2!']}", "{kind: http, headers: {Authorization: Bearer Hunter2!}}",
    "{kind: s3, secret_access_key: Hunter2!}", "{kind: postgresql, options: {password: Hunter2!}}", "{kind: x, note: [[{api-key: 5, apikey: Hunter2!}]]}",
    "{kind: mongodb, url: 'mongodb+srv://a:Hunter2!@h'}", "{kind: git, ref: ghp_Hunter2Hunter2Hunter2Hunter2}", "{kind: x, token: Hunter2!}",
])
def test_a_literal_secret_is_refused_without_being_repeated(work: Path, registry: Registry, entry: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_sources(yaml_file(work, f"version: 1\nsources:\n  - {entry.replace('{kind', '{name: shop, kind', 1)}\n"), registry)
    assert "holds a secret" in caught.value.fact
    assert "shop" in caught.value.fact
    assert "environment variable" in caught.value.next
    assert "Hunter2" not in str(caught.value) + repr(caught.value.__cause__) + repr(caught.value.__context__)


@pytest.mark.parametrize("entry", [
    "{kind: git, url: 'ssh://git@github.com/a/b'}", "{kind: git, url: 'git@github.com:a/b'}", "{kind: x, url: 'postgresql://reader@h:5432/d'}",
    "{kind: x, password_env: PGPASSWORD}", "{kind: x, headers_env: {Authorization: MY_AUTH}}", "{kind: x, urls: ['https://h/a@b?page=2']}", "{kind: x, columns: [token_count]}",
    "{kind: x, queries: [{filter: {token_count: 5, a: {password: x}}, pipeline: [{$match: {secret: 1}}]}]}",
])
def test_names_of_variables_and_users_are_no_secrets(entry: str) -> None:
    import yaml

    check_no_secrets(yaml.safe_load(entry), "sources.yaml")


@pytest.mark.parametrize("entry", ["password_env: hunter2", "password_env: 'Hunter2!'", "url_env: 'postgresql://h/d'", "headers_env: {X-Key: abc123}"])
def test_a_secret_in_place_of_a_variable_s_name_is_refused_without_being_repeated(work: Path, registry: Registry, entry: str) -> None:
    with pytest.raises(UsageError, match="is not the name of an environment variable") as caught:
        read_sources(yaml_file(work, f"version: 1\nsources:\n  - {{name: a, kind: http, {entry}}}\n"), registry)
    assert not [word for word in ("hunter2", "Hunter2", "//h/d", "abc123") if word in str(caught.value)]


def test_broken_yaml_does_not_show_the_line_with_a_password(work: Path, registry: Registry) -> None:
    with pytest.raises(UsageError, match="is not YAML") as caught:
        read_sources(yaml_file(work, "version: 1\nsources:\n  - {name: a, password: Hunter2! ]\n"), registry)
    assert "Hunter2" not in str(caught.value)
    assert "line 3" in caught.value.why


def test_a_secret_is_hidden_in_every_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_URL", "postgresql://me:p%40ss%2Fword@h/d")
    secrets = Secrets()
    url = secrets.read("DB_URL")
    for said in (url, "p%40ss%2Fword", "p@ss/word", "failed for p@ss/word: p%40ss%2Fword", "mysql://u:other@h"):
        hidden = secrets.hide(f"<{said}>")
        assert not {"p%40ss%2Fword", "p@ss/word", "other"} & set(hidden.replace("<", " ").replace(">", " ").replace(":", " ").replace("@h", " @h").split())
        assert HIDDEN in hidden
    with pytest.raises(MissingAccess, match="NOT_SET is not set"):
        secrets.read("NOT_SET")


@pytest.mark.parametrize("fail", ["", "forge", "bug"])
def test_no_secret_reaches_manifest_notice_or_error(work: Path, registry: Registry, fail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_KEY", "Hunter2!Hunter2!")
    toys(work, f"name: a, kind: toy, words: [x], key_env: TOY_KEY, fail: '{fail}'")
    said = ""
    if fail:
        with pytest.raises(ForgeError, match='source "a"') as caught:
            bring(work, registry)
        assert caught.value.__suppress_context__
        said = str(caught.value) + repr(caught.value.__cause__)
    else:
        bring(work, registry)
    ((row, error),) = preview_sources(read_sources(work / "sources.yaml", registry), work, 3, Path("/nowhere"))
    said += row.model_dump_json() + str(error)
    said += "".join(path.read_text(encoding="utf-8") for path in (work / "run").rglob("*") if path.is_file())
    assert "Hunter2" not in said
    assert HIDDEN in said


def test_workers_get_no_variable_that_looks_like_a_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"DATABASE_URL": "postgresql://me:Hunter2@h/d", "PGPASSWORD": "x", "MY_TOKEN": "x", "PLAIN_URL": "https://host/path"}.items():
        monkeypatch.setenv(name, value)
    assert {"DATABASE_URL", "PGPASSWORD", "MY_TOKEN", "PLAIN_URL"} & set(worker_environment()) == {"PLAIN_URL"}


# --- snapshots -------------------------------------------------------------------------------------------------


def test_the_corpus_is_all_sources_under_their_names(work: Path, registry: Registry) -> None:
    tiny_corpus(work / "manuals", {"a.md": "one", "deep/b.md": "two", "c.tmp": "no", ".git/config": "no"})
    tiny_corpus(work / "single", {"notes.jsonl": "{}\n", "other.txt": "not mine"})
    toys(work, "name: words, kind: toy, words: [x, y]", "name: man, kind: folder, path: manuals, exclude: ['*.tmp']", "name: note, kind: file, path: single/notes.jsonl")
    snapshots = bring(work, registry)
    entries = listing(snapshots)
    assert [entry.path for entry in entries] == ["man/a.md", "man/deep/b.md", "note/notes.jsonl", "words/0.txt", "words/1.txt"]
    assert [locate(snapshots.root, entry).read_text(encoding="utf-8") for entry in entries] == ["one", "two", "{}\n", "x", "y"]
    assert (snapshots.root / "man").is_symlink()   # not copied
    assert fetches() == ["x y"]


def test_a_snapshot_is_taken_once_until_its_settings_change_or_it_is_asked_for(work: Path, registry: Registry) -> None:
    toys(work, "name: a, kind: toy, words: [x]", "name: b, kind: toy, words: [y]")
    first = listing(bring(work, registry))
    assert listing(bring(work, registry)) == first
    assert fetches() == ["x", "y"]
    toys(work, "name: b, kind: toy, words: [y]", "name: a, kind: toy, words: [z]")
    snapshots = bring(work, registry)
    assert fetches() == ["x", "y", "z"]
    assert [locate(snapshots.root, entry).read_text(encoding="utf-8") for entry in listing(snapshots)] == ["z", "y"]
    bring(work, registry, refetch=True)
    assert fetches() == ["x", "y", "z", "z", "y"]


def test_a_source_that_fails_keeps_the_snapshots_of_the_others_and_its_own(work: Path, registry: Registry) -> None:
    toys(work, "name: a, kind: toy, words: [x]", "name: b, kind: toy, words: [y]")
    bring(work, registry)
    toys(work, "name: a, kind: toy, words: [x2]", "name: b, kind: toy, words: [y], fail: bug")
    with pytest.raises(ForgeError, match='source "b"'):
        bring(work, registry)
    root = work / "run" / "sources" / work.name
    assert ((root / "a" / "0.txt").read_text(encoding="utf-8"), (root / "b" / "0.txt").read_text(encoding="utf-8")) == ("x2", "y")
    toys(work, "name: a, kind: toy, words: [x2]", "name: b, kind: toy, words: [y]")
    bring(work, registry)
    assert fetches() == ["x", "y", "x2", "y"]   # b's old snapshot still counts


def test_an_interrupted_or_killed_fetch_leaves_no_snapshot(work: Path, registry: Registry) -> None:
    toys(work, "name: a, kind: toy, words: [x], fail: interrupt")
    with pytest.raises(Interrupted):
        bring(work, registry)
    folder = work / "run" / "sources"
    assert [path.name for path in folder.iterdir()] == [work.name]
    assert list((folder / work.name).iterdir()) == []
    toys(work, "name: a, kind: toy, words: [x]")
    tiny_corpus(folder, {".new-a/half.txt": "half", f"{work.name}/a/half.txt": "renamed, but killed before its manifest"})
    assert [entry.path for entry in listing(bring(work, registry))] == ["a/0.txt"]
    (folder / "a.json").write_text('{"damaged', encoding="utf-8")
    bring(work, registry)
    assert fetches() == ["x", "x", "x"]


def test_a_source_that_is_taken_out_or_becomes_local_takes_its_files_along(work: Path, registry: Registry) -> None:
    toys(work, "name: a, kind: toy, words: [x]", "name: b, kind: toy, words: [y]")
    bring(work, registry)
    tiny_corpus(work / "manuals", {"m.md": "m"})
    toys(work, "name: a, kind: folder, path: manuals")
    snapshots = bring(work, registry)
    assert [entry.path for entry in listing(snapshots)] == ["a/m.md"]
    assert sorted(os.listdir(work / "run" / "sources")) == [work.name]   # noqa: PTH208
    toys(work, "name: a, kind: toy, words: [x]")
    assert [entry.path for entry in listing(bring(work, registry))] == ["a/0.txt"]
    assert (work / "manuals" / "m.md").exists()   # the link went, not what it pointed to


def test_another_run_over_the_same_list_takes_the_snapshot_over(work: Path, registry: Registry) -> None:
    file = toys(work, "name: a, kind: toy, words: [x]", "name: b, kind: toy, words: [y]")
    first = listing(bring(work, registry))
    told: list[str] = []
    (work / "other").mkdir()
    toys(work, "name: a, kind: toy, words: [x]", "name: b, kind: toy, words: [changed]")
    other = Snapshots(work / "other", file, read_sources(file, registry), donors=[work / "run", work / "other"], tell=told.append)
    other.bring()
    assert fetches() == ["x", "y", "changed"]
    assert listing(other)[0] == first[0]
    assert told[0] == "source a (toy): 1 files of run run are used again; --refetch brings them anew"
    other.bring(refetch=True)
    assert len(fetches()) == 5
    assert listing(bring(work, registry))[0] == first[0]   # the donor is as it was


def test_a_manifest_says_what_was_fetched(work: Path, registry: Registry) -> None:
    toys(work, "name: a, kind: toy, words: [x, yy]")
    bring(work, registry)
    card = json.loads((work / "run" / "sources" / "a.json").read_text(encoding="utf-8"))
    assert (card["name"], card["kind"], card["files"], card["bytes"], len(card["settings_sha256"])) == ("a", "toy", 2, 3, 64)


@pytest.mark.parametrize(("line", "said"), [
    ("name: a, kind: folder, path: nowhere", "there is no folder at"), ("name: a, kind: folder, path: sources.yaml", "write kind: file"),
    ("name: a, kind: file, path: plugins", "write kind: folder"),
])
def test_a_local_path_that_is_not_there_is_told(work: Path, registry: Registry, line: str, said: str) -> None:
    toys(work, line)
    with pytest.raises(UsageError, match='source "a"') as caught:
        bring(work, registry)
    assert said in str(caught.value)


def test_a_missing_extra_is_named_before_anything_is_fetched(work: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.registry._is_there", lambda module: module != "boto3")
    toys(work, "name: a, kind: s3, bucket: b")
    with pytest.raises(MissingAccess, match="needs boto3") as caught:
        bring(work, registry)
    assert caught.value.next == "pip install 'slm-forge[aws]'"
