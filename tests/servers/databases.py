"""Real servers for tests, on free ports of the loopback interface, in temporary folders: PostgreSQL, MariaDB, documents, S3.

Every one ends with the `with` that started it. PostgreSQL and MariaDB refuse to run as root: then `nobody` runs them.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.programs import program

START_SECONDS = 30.0
POSTGRES_PROGRAMS = "/usr/lib/postgresql/*/bin/"
PASSWORD = "s3cr3t-Pa55/w:rd@"   # with the characters that have to be escaped in a URL
UNPRIVILEGED = "nobody"


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def postgresql() -> Iterator[int]:
    """A PostgreSQL with the superuser `owner` (password PASSWORD); gives its port."""
    with _place() as place:
        port, data = free_port(), place / "data"
        secret = place / "password"
        secret.write_text(PASSWORD, encoding="utf-8")
        _as_server([program("initdb", POSTGRES_PROGRAMS + "initdb", install="apt-get install postgresql"), "-D", str(data), "-U", "owner", f"--pwfile={secret}", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"], place)
        options = ["-p", str(port), "-k", str(place), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "shared_buffers=16MB"]
        with _running([program("postgres", POSTGRES_PROGRAMS + "postgres", install="apt-get install postgresql"), "-D", str(data), *options], place, signal.SIGINT, lambda: _answers(port)):
            import psycopg

            _until(lambda: _connects(lambda: psycopg.connect(host="127.0.0.1", port=port, user="owner", password=PASSWORD, dbname="postgres").close()), place)
            yield port


@contextmanager
def mariadb() -> Iterator[int]:
    """A MariaDB with the user `owner` (password PASSWORD) who may do everything; gives its port."""
    with _place() as place:
        port, data = free_port(), place / "data"
        setup = place / "setup.sql"
        setup.write_text(f"CREATE USER 'owner'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\nGRANT ALL ON *.* TO 'owner'@'127.0.0.1';\n", encoding="utf-8")
        _as_server([program("mariadb-install-db", install="apt-get install mariadb-server"), "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal", "--skip-test-db"], place)
        options = ["--no-defaults", f"--datadir={data}", f"--port={port}", "--bind-address=127.0.0.1", f"--socket={place}/s", f"--init-file={setup}", "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=16M", f"--pid-file={place}/pid", f"--tmpdir={place}"]
        with _running([program("mariadbd", "/usr/sbin/mariadbd", install="apt-get install mariadb-server"), *options], place, signal.SIGTERM, lambda: _answers(port)):
            import pymysql

            _until(lambda: _connects(lambda: pymysql.connect(host="127.0.0.1", port=port, user="owner", password=PASSWORD).close()), place)
            yield port


@contextmanager
def documents(*, auth: bool = False, data: Path | None = None) -> Iterator[int]:
    """SecantusDB, which speaks MongoDB's wire protocol on MongoDB's storage engine; gives its port."""
    with _place() as place:
        port = free_port()
        command = [str(Path(sys.executable).parent / "secantusd-py"), "--host", "127.0.0.1", "--port", str(port), "--storage-path", str(data or place / "data")]
        with _running(command + ["--auth"] * auth, place, signal.SIGTERM, lambda: _answers(port), unprivileged=False):
            yield port


@contextmanager
def _place() -> Iterator[Path]:
    """A short path (sockets allow 107 bytes) that the unprivileged user may write to."""
    place = Path(tempfile.mkdtemp(prefix="fsrv-", dir="/tmp"))
    try:
        if os.geteuid() == 0:
            shutil.chown(place, UNPRIVILEGED)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _running(
    command: Sequence[str], place: Path, stop: signal.Signals, ready: Callable[[], bool], *, unprivileged: bool = True
) -> Iterator[None]:
    with (place / "log").open("wb") as log:
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
        child = subprocess.Popen(command, cwd=place, start_new_session=True, **streams, **_user(unprivileged))
        try:
            _until(ready, place, child)
            yield
        finally:
            child.send_signal(stop)
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def _user(unprivileged: bool) -> dict[str, Any]:
    if os.geteuid() != 0 or not unprivileged:
        return {}
    return {"user": UNPRIVILEGED, "group": "nogroup", "extra_groups": [], "env": {"PATH": os.environ["PATH"], "HOME": "/tmp", "LC_ALL": "C.UTF-8"}}


def _as_server(command: Sequence[str], place: Path) -> None:
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, **_user(True))
    assert done.returncode == 0, done.stdout + done.stderr


def _until(ready: Callable[[], bool], place: Path, child: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        gone = child is not None and child.poll() is not None
        assert not gone, (place / "log").read_text(errors="replace")[-3000:]
        assert time.monotonic() < deadline, (place / "log").read_text(errors="replace")[-3000:]
        time.sleep(0.05)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _connects(attempt: Callable[[], None]) -> bool:
    import psycopg
    import pymysql

    try:
        attempt()
    except (psycopg.OperationalError, pymysql.err.OperationalError):
        return False
    return True
