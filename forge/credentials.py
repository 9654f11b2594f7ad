"""Credentials of sources: named by environment variable, never written in a file, never shown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from forge.errors import MissingAccess, UsageError

HIDDEN = "***"

SECRET_KEY = re.compile(r"pass(word|wd|phrase)?$|^pwd$|secret|token|api_?key|access_?key|private_?key|credential|authorization|^cookie$", re.I)
SECRET_VALUE = re.compile(r"^(hf_\w{20,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|AKIA[0-9A-Z]{16}|sk-[\w-]{20,}|Bearer\s+\S+|Basic\s+[\w+/=]{8,})$")
USER_AND_PASSWORD = re.compile(r"(?P<scheme>[a-z][\w+.-]*)://(?P<user>[^/\s:@]*):(?P<password>[^/\s@]+)@", re.I)
WEB_USER = re.compile(r"^https?://[^/\s@]+@", re.I)
VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
QUERY_PARTS = {"filter", "projection", "sort", "pipeline"}
"""Below these the keys are a database's field names: {token_count: 5} is no token."""

SECRET_PARAMETER = re.compile(r"[?&;](password|passwd|pwd|token|access_token|api_?key|sig|signature|x-amz-signature|x-amz-credential)=[^&\s]", re.I)


def check_no_secrets(tree: Any, where: str) -> None:
    """Raise UsageError for the first literal secret in parsed YAML. The message names its key, never its value."""
    for path, key, value in _leaves(tree):
        if key.endswith("_env") and value not in (None, "") and not (isinstance(value, str) and VARIABLE.fullmatch(value)):
            raise UsageError(
                f"{where}: {path} is not the name of an environment variable", why="names are written in capitals, digits and _; the value may be the secret itself",
                next=f"export MY_SECRET=… and write {key}: MY_SECRET",
            )
        why = _why_secret(key, value)
        if why:
            variable = re.sub(r"\W+", "_", key or "secret").strip("_").upper()
            raise UsageError(
                f"{where}: {path} holds a secret", why=why,
                next=f"put it into an environment variable and name that: {_variable_key(key)}: MY_{variable}",
            )


class Secrets:
    """Environment variables that were read as credentials; hide() takes their values out of any text."""

    def __init__(self) -> None:
        self._values: set[str] = set()

    def read(self, variable: str) -> str:
        """The variable's value. Raises MissingAccess when it is not set or empty."""
        value = os.environ.get(variable, "")
        if not value:
            raise MissingAccess(
                f"the environment variable {variable} is not set", why="a credential is read from it", next=f"export {variable}=… and repeat the command"
            )
        self.add(value)
        return value

    def add(self, value: str) -> None:
        """Hide `value`, also as it looks inside a URL; of a URL its password too."""
        self._values |= {value, quote(value, safe=""), quote(value)} - {""}
        if "://" in value:
            found = USER_AND_PASSWORD.search(value)
            password = found["password"] if found else urlsplit(value).password
            if password:
                self._values |= {password, unquote(password), quote(unquote(password), safe="")}

    def hide(self, text: str) -> str:
        """The text without any known secret and without passwords in URLs."""
        for value in sorted(self._values, key=len, reverse=True):
            text = text.replace(value, HIDDEN)
        return USER_AND_PASSWORD.sub(rf"\g<scheme>://\g<user>:{HIDDEN}@", text)

    def hide_all(self, value: Any) -> Any:
        """The same for every string inside lists and mappings."""
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, dict):
            return {self.hide(str(key)): self.hide_all(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.hide_all(inner) for inner in value]
        return value


def _why_secret(key: str, value: Any) -> str:
    """Why a key and its value look like a literal secret, or ""."""
    if SECRET_KEY.search(key) and not key.endswith("_env") and value not in (None, "") and not isinstance(value, bool):
        return "passwords, tokens and keys do not belong in a file that is copied and committed"
    if not isinstance(value, str):
        return ""
    if USER_AND_PASSWORD.search(value) or WEB_USER.search(value):
        return "its URL contains a user's credentials"
    if SECRET_PARAMETER.search(value):
        return "its URL carries a password or signature as a parameter"
    return "its value looks like an access token" if SECRET_VALUE.match(value.strip()) else ""


def _variable_key(key: str) -> str:
    if key.lower() == "authorization":
        return "headers_env: {Authorization: MY_AUTHORIZATION}, not"
    return "url_env" if key in ("url", "urls", "uri", "dsn", "") or not SECRET_KEY.search(key) else f"{key}_env"


def _leaves(tree: Any, path: str = "", key: str = "") -> Iterator[tuple[str, str, Any]]:
    """(path, nearest key, value) of every scalar. A source is called by its name where it has one.

    What stands under headers_env names variables, and a query's parts name fields: those keys are no secrets.
    """
    if isinstance(tree, dict):
        for name, value in tree.items():
            inner = f"{name}_env" if key == "headers_env" else key if key in QUERY_PARTS else str(name)
            yield from _leaves(value, f"{path}.{name}" if path else str(name), inner)
    elif isinstance(tree, list):
        for number, value in enumerate(tree, 1):
            called = value.get("name") if isinstance(value, dict) else None
            yield from _leaves(value, f"{path}[{called if isinstance(called, str) else number}]", key)
    else:
        yield path, key, tree
