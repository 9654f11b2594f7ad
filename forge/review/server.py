"""The review page's server: this machine only, for one browser, for as long as it is needed.

What keeps others out: it listens on 127.0.0.1 at a random port; the address that is printed carries a token that works once
and becomes a cookie (HttpOnly, SameSite=Strict); the Host header must be its own, so a name that is rebound to 127.0.0.1
gets nothing; a change must come from its own page (Origin, Sec-Fetch-Site), as JSON, with a secret that only the page was
told. The page runs only its own script and style, named by hash, and may load nothing from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

from forge.errors import ForgeError, RunBusy, UsageError
from forge.review.book import FACETS, MOST, PAGE, Asked
from forge.review.desk import Desk

ADDRESS = "127.0.0.1"
BODY_MOST = 1 << 20
REQUEST_SECONDS = 30
TICK_SECONDS = 0.2
USED = "this address was used already: it opens the page once. Start forge review again for a new one"
CLOSED = "open the address that forge review printed, in the browser that is to show the page"


class Denied(Exception):
    """A request that gets no answer but its status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class ReviewServer(ThreadingHTTPServer):
    """Serves one desk. `url` holds the token; `outcome` is set when the reviewer has decided about the plan."""

    daemon_threads = True
    allow_reuse_address = False

    def __init__(self, desk: Desk) -> None:
        super().__init__((ADDRESS, 0), Handler)
        self.desk = desk
        self.origin = f"http://{ADDRESS}:{self.server_address[1]}"
        self.token, self.session, self.csrf = (secrets.token_urlsafe(24) for _ in range(3))
        self.cookie = f"forge-review-{self.server_address[1]}"   # cookies know no ports: two reviews must not share one
        self.page, self.policy = make_page(self.csrf)
        self.token_used = False
        self.outcome: str = ""
        self.touched = time.monotonic()
        self._ended, self._token_lock = threading.Event(), threading.Lock()

    @property
    def url(self) -> str:
        """The address that opens the page, once."""
        return f"{self.origin}/?token={self.token}"

    def take_token(self, given: str) -> bool:
        """True for the first use of the right token, ever."""
        with self._token_lock:
            if self.token_used or not _same(given, self.token):
                return False
            self.token_used = True
            return True

    def end(self, outcome: str) -> None:
        """Say how it ended; wait() returns."""
        self.outcome = outcome
        self._ended.set()

    def wait(self, idle_seconds: float) -> str:
        """Serve until the reviewer has decided; returns "approved", "rejected", "later" or "idle". Ctrl-C passes through."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": TICK_SECONDS}, daemon=True)
        thread.start()
        try:
            while not self._ended.wait(TICK_SECONDS):
                if self.desk.is_remaking:
                    self.touched = time.monotonic()
                if time.monotonic() - self.touched > idle_seconds:
                    self.outcome = "idle"
                    break
        finally:
            self.shutdown()
            self.server_close()
            self.desk.stop()
        return self.outcome

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no news; what fails in answering is told to the page by Handler."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: ReviewServer
    timeout = REQUEST_SECONDS
    server_version, sys_version = "forge", ""

    def do_GET(self) -> None:
        """The page, or what it shows."""
        self._answer(self._get)

    def do_HEAD(self) -> None:
        """Nothing here has only a head."""
        self._answer(self._other)

    def do_POST(self) -> None:
        """A decision."""
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: the address holds a secret."""

    def _answer(self, make: Callable[[], None]) -> None:
        try:
            if self.headers.get("Host") != self.server.origin.removeprefix("http://"):
                raise Denied(403, "this server answers to its own address only")
            make()
        except Denied as denied:
            self._send(denied.status, {"error": denied.text})
        except ForgeError as error:
            status = 409 if isinstance(error, RunBusy) or error.exit_code == 3 else 400
            self._send(status, {"error": error.fact, "why": error.why, "next": error.next})
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception as error:  # noqa: BLE001 - a bug of ours: told on the page, with its type, and the server lives on
            self._send(500, {"error": f"{type(error).__name__}: {error}", "why": "a bug in slm-forge", "next": ""})

    def _get(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/" and "token" in query:
            if not self.server.take_token(query["token"]):
                raise Denied(403, USED if self.server.token_used else CLOSED)
            self._page(set_cookie=True)
            return
        self._check_session()
        if parts.path == "/":
            self._page()
        elif parts.path == "/api/state":
            self._send(200, self.server.desk.state())
        elif parts.path == "/api/items":
            self._send(200, self.server.desk.items(_asked(query)))
        else:
            raise Denied(404, "there is no such page")

    def _post(self) -> None:
        self._check_session()
        self._check_own_page()
        body, desk = self._body(), self.server.desk
        actions: dict[str, Callable[[], Any]] = {
            "/api/reject": lambda: desk.reject(_ids(body), str(body.get("why", ""))),
            "/api/keep": lambda: desk.keep(_ids(body), str(body.get("why", ""))),
            "/api/edit": lambda: desk.edit([(_ids(body)[0], _fields(body), str(body.get("why", "")))]),
            "/api/remake": desk.remake,
            "/api/approve": lambda: desk.approve(str(body.get("plan", ""))),
            "/api/close": desk.close_run,
            "/api/later": lambda: None,
        }
        path = urlsplit(self.path).path
        if path not in actions:
            raise Denied(404, "there is no such action")
        self._send(200, {"done": actions[path]()})
        outcome = {"/api/approve": "approved", "/api/close": "rejected", "/api/later": "later"}.get(path)
        if outcome:
            self.server.end(outcome)

    def _other(self) -> None:
        raise Denied(405, "only GET and POST")

    def _check_session(self) -> None:
        pairs = [part.strip().partition("=") for part in (self.headers.get("Cookie") or "").split(";")]
        given = [value for name, _, value in pairs if name == self.server.cookie]
        if not any(_same(value, self.server.session) for value in given):
            raise Denied(403, CLOSED)
        self.server.touched = time.monotonic()

    def _check_own_page(self) -> None:
        """A form of another site can neither set these headers nor know the secret."""
        if self.headers.get("Origin") != self.server.origin or self.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            raise Denied(403, "this request does not come from the review page")
        if not _same(self.headers.get("X-Forge-Review", ""), self.server.csrf):
            raise Denied(403, "this request does not carry the page's secret")
        if (self.headers.get("Content-Type") or "").partition(";")[0].strip() != "application/json":
            raise Denied(415, "only application/json")

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > BODY_MOST:
            raise Denied(413, "the request is too long, or does not say how long it is")
        try:
            found = json.loads(self.rfile.read(int(length)) or b"{}")
        except ValueError as error:
            raise Denied(400, f"not JSON: {error}") from error
        if not isinstance(found, dict):
            raise Denied(400, "not an object")
        return found

    def _page(self, *, set_cookie: bool = False) -> None:
        server = self.server
        headers = {"Content-Security-Policy": server.policy, "Content-Type": "text/html; charset=utf-8"}
        if set_cookie:
            headers["Set-Cookie"] = f"{server.cookie}={server.session}; HttpOnly; SameSite=Strict; Path=/"
            server.touched = time.monotonic()
        self._write(200, headers, server.page)

    def _send(self, status: int, value: Any) -> None:
        body = json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace")
        self._write(status, {"Content-Type": "application/json; charset=utf-8", "Content-Security-Policy": "default-src 'none'"}, body)

    def _write(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        common = {
            "Content-Length": str(len(body)), "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer", "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
        }
        for name, value in {**common, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def make_page(csrf: str) -> tuple[bytes, str]:
    """The page as one document, and the Content-Security-Policy that allows its own script and style and nothing else."""
    style, script, html = (_file(name) for name in ("page.css", "page.js", "page.html"))
    script = script.replace('"%CSRF%"', json.dumps(csrf))
    policy = "; ".join([
        "default-src 'none'", f"script-src '{_csp_hash(script)}'", f"style-src '{_csp_hash(style)}'", "connect-src 'self'", "img-src data:",
        "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
    ])
    return html.replace("%STYLE%", style).replace("%SCRIPT%", script).encode(), policy


def _file(name: str) -> str:
    return (files("forge") / "review" / name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _asked(query: dict[str, str]) -> Asked:
    facets = {name: query[name] for name in FACETS if name in query}
    return Asked(
        kind=query.get("kind", "pairs"), facets=facets, words=query.get("q", ""), sample=query.get("sample") == "1",
        offset=_number(query, "offset", 0), limit=min(MOST, _number(query, "limit", PAGE)),
    )


def _number(query: dict[str, str], name: str, usual: int) -> int:
    value = query.get(name, str(usual))
    if not value.isdecimal():
        raise Denied(400, f"{name} is not a number")
    return int(value)


def _ids(body: dict[str, Any]) -> list[str]:
    found = body.get("pairs")
    if not isinstance(found, list) or not found or not all(isinstance(one, str) for one in found):
        raise UsageError("no pair is named", why='"pairs" must be a list of ids')
    return found


def _fields(body: dict[str, Any]) -> dict[str, str]:
    found = body.get("fields")
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise UsageError("nothing is changed", why='"fields" must hold question, answer or evidence')
    return found
