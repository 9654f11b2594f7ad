"""HTTP and HTTPS: a list of addresses, each one file. Only the standard library.

Redirects are followed to http and https only, and credentials do not follow to another host. A body that ends before
its declared length is an error (http.client returns short reads silently). ETags are kept: a refetch downloads what changed.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import mimetypes
import re
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any, ClassVar
from urllib.parse import unquote, urlsplit

from pydantic import Field, field_validator

from forge.errors import ForgeError
from forge.phase import Requirement, Settings
from forge.plugins.sources._files import GIB, ByteBudget, Names, head_sample, write_chunks
from forge.previews import HEAD_BYTES
from forge.protocols import Fetching, Preview, Sample

CHUNK = 1 << 16
MAX_REDIRECTS = 5
TRIES = 4
PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 30.0
RETRIED = {408, 425, 429, 500, 502, 503, 504}
EXTENSIONS = {
    "text/html": ".html", "application/xhtml+xml": ".html", "text/plain": ".txt", "text/markdown": ".md", "application/json": ".json",
    "application/pdf": ".pdf", "text/csv": ".csv", "application/zip": ".zip", "application/gzip": ".gz", "application/x-ndjson": ".jsonl",
    "application/jsonl": ".jsonl", "text/xml": ".xml", "application/xml": ".xml", "application/epub+zip": ".epub",
}


ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,7}")   # "v1.2" has none
PROGRAMS = {".php", ".asp", ".aspx", ".jsp", ".cgi", ".do", ".pl", ".cfm"}
"""Endings that say what made a page, not what it is."""


class WebSettings(Settings):
    """Addresses to download."""

    urls: tuple[str, ...] = Field(min_length=1, description="addresses, each one file")
    headers: dict[str, str] = Field({}, description="headers to send; no credentials here")
    headers_env: dict[str, str] = Field({}, description="header -> environment variable that holds its value")
    user: str = Field("", description="user name for basic authentication")
    password_env: str = Field("", description="environment variable with the password of `user`")
    max_bytes: int = Field(GIB, ge=1, description="most bytes of all files together")
    timeout_seconds: float = Field(60.0, gt=0, description="longest wait for the server")

    @field_validator("urls")
    @classmethod
    def _web_only(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
                raise ValueError(f"{url} is not an http:// or https:// address")
        return urls


class WebSource:
    """Downloads a list of addresses."""

    name: ClassVar[str] = "http"
    requires: ClassVar[tuple[Requirement, ...]] = ()
    settings: ClassVar[type[Settings]] = WebSettings

    def fetch(self, settings: WebSettings, folder: Path, ctx: Fetching) -> Mapping[str, Any]:
        """Each address as <host>/<path>; the extension comes from the content type where the path has none."""
        budget, names, facts = ByteBudget(settings.max_bytes), Names(), dict[str, Any]()
        headers = _headers(settings, ctx)
        for done, url in enumerate(settings.urls):
            ctx.check_stop()
            ctx.progress(done, len(settings.urls))
            known = ctx.facts.get("urls", {}).get(url, {})
            facts[url] = self._fetch_one(url, headers, known, settings, folder, names, budget, ctx)
        return {"urls": facts}

    def _fetch_one(
        self, url: str, headers: dict[str, str], known: Mapping[str, str], settings: WebSettings, folder: Path, names: Names,
        budget: ByteBudget, ctx: Fetching,
    ) -> dict[str, str]:
        old = ctx.previous / known["file"] if ctx.previous and known.get("etag") else None
        if old is not None and old.is_file():
            headers = {**headers, "If-None-Match": known["etag"]}
        last = ""
        for attempt in range(TRIES):
            try:
                with _open(url, headers, settings.timeout_seconds) as answer:
                    draft = folder / ".part"
                    draft.unlink(missing_ok=True)
                    write_chunks(draft, _body(answer), budget, ctx)
                    name = names.of(_name(url, answer.headers.get_content_type() if answer.headers.get("Content-Type") else ""))
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    draft.rename(folder / name)
                    return {"file": name, "etag": answer.headers.get("ETag", "")}
            except urllib.error.HTTPError as error:
                with error:
                    if error.code == 304 and old is not None:
                        name = names.of(known["file"])
                        write_chunks(folder / name, _chunks(old), budget, ctx)
                        return {"file": name, "etag": known["etag"]}
                    if error.code not in RETRIED or attempt == TRIES - 1:
                        raise _refused(url, error) from None
                    last, pause = f"status {error.code}", _pause(attempt, error.headers.get("Retry-After", ""))
            except (OSError, http.client.HTTPException) as error:
                last, pause = _reason(error), _pause(attempt)
            if attempt < TRIES - 1:
                time.sleep(pause)
        raise ForgeError(f"{_shown(url)} cannot be downloaded", why=f"{last}, {TRIES} times", next="repeat the command when the server answers again")

    def preview(self, settings: WebSettings, samples: int, ctx: Fetching) -> Preview:
        """Sizes that the servers declare, and the beginnings of the first files. One GET each, closed after the head."""
        size, unknown, shown, headers = 0, 0, list[Sample](), _headers(settings, ctx)
        for url in settings.urls:
            ctx.check_stop()
            try:
                with _open(url, headers, settings.timeout_seconds) as answer:
                    length = answer.headers.get("Content-Length")
                    size, unknown = size + int(length or 0), unknown + (length is None)
                    if len(shown) < samples:
                        shown.append(head_sample(_shown(url), answer.read(HEAD_BYTES)))
            except urllib.error.HTTPError as error:
                with error:
                    raise _refused(url, error) from None
        note = f"{unknown} of unknown size" if unknown else ""
        return Preview(files=len(settings.urls), bytes=size, samples=tuple(shown), note=note)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """At most MAX_REDIRECTS, to http and https only; another host does not get our headers."""

    max_redirections = MAX_REDIRECTS

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        new, old = urlsplit(newurl), urlsplit(req.full_url)
        if new.scheme not in ("http", "https"):
            raise ForgeError(f"{_shown(req.full_url)} redirects to {new.scheme}:", why="only http and https are followed", next="name the final address")
        if old.scheme == "https" and new.scheme == "http":
            raise ForgeError(f"{_shown(req.full_url)} redirects from https to http", why="what is read could be changed on the way", next="name the final address")
        found = super().redirect_request(req, fp, code, msg, headers, newurl)
        if found is not None and (new.hostname, new.port) != (old.hostname, old.port):
            found.headers = {key: value for key, value in found.headers.items() if key in ("User-agent", "Accept-encoding")}
        return found


def _open(url: str, headers: Mapping[str, str], seconds: float) -> http.client.HTTPResponse:
    opener = urllib.request.OpenerDirector()   # not build_opener: that adds file: and ftp:
    for handler in (
        urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler(), urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(), _Redirects(),
    ):
        opener.add_handler(handler)
    request = urllib.request.Request(url, headers={"User-Agent": "slm-forge", "Accept-Encoding": "identity", **headers})
    answer: http.client.HTTPResponse = opener.open(request, timeout=seconds)
    return answer


def _body(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body, unpacked when the server compresses although it was asked not to; checked against its length."""
    declared, got = answer.headers.get("Content-Length"), 0
    coding = answer.headers.get("Content-Encoding", "identity").lower()
    if coding not in ("", "identity", "gzip", "deflate"):
        raise ForgeError(f"the server sends the coding {coding}", why="only gzip and deflate are read")
    unpack = zlib.decompressobj(wbits=47) if coding in ("gzip", "deflate") else None
    while chunk := answer.read(CHUNK):
        got += len(chunk)
        if unpack is None:
            yield chunk
        while unpack is not None and chunk:
            yield unpack.decompress(chunk, CHUNK * 16)   # in steps: a bomb meets the byte cap before the memory
            chunk = unpack.unconsumed_tail
    if declared is not None and got != int(declared):
        raise http.client.IncompleteRead(b"", int(declared) - got)


def _headers(settings: WebSettings, ctx: Fetching) -> dict[str, str]:
    found = {**settings.headers, **{name: ctx.secret(variable) for name, variable in settings.headers_env.items()}}
    if settings.user or settings.password_env:
        password = ctx.secret(settings.password_env) if settings.password_env else ""
        token = base64.b64encode(f"{settings.user}:{password}".encode()).decode("ascii")
        ctx.hide(token)
        found["Authorization"] = f"Basic {token}"
    return found


def _name(url: str, media_type: str) -> str:
    """host/path; with a hash where a query tells two addresses apart, and an extension where the path has none."""
    parts = urlsplit(url)
    path = unquote(parts.path).strip("/") or "index"
    suffix = PurePosixPath(path).suffix
    stem = path.removesuffix(suffix)
    if parts.query:
        stem += "-" + hashlib.sha256(parts.query.encode()).hexdigest()[:8]
    if not ENDING.fullmatch(suffix) or suffix.lower() in PROGRAMS:
        suffix += EXTENSIONS.get(media_type) or (mimetypes.guess_extension(media_type) if media_type else None) or ""
    return str(PurePosixPath(parts.netloc.rpartition("@")[2].replace(":", "_")) / (stem + suffix))


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _pause(attempt: int, retry_after: str = "") -> float:
    asked = float(retry_after) if retry_after.isdigit() else 0.0
    return float(min(MAX_PAUSE_SECONDS, max(asked, PAUSE_SECONDS * 2**attempt)))


def _refused(url: str, error: urllib.error.HTTPError) -> ForgeError:
    hint = "set headers_env or user and password_env" if error.code in (401, 403) else "check the address"
    return ForgeError(f"{_shown(url)} answers {error.code} {error.reason}", why="the server does not give the file", next=hint)


def _reason(error: Exception) -> str:
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    return f"{type(inner).__name__}: {inner}"


def _shown(url: str) -> str:
    """The address without its query, which may hold a signature."""
    return url.partition("?")[0]


source = WebSource()
