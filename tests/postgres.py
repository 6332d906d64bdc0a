"""A PostgreSQL server of the tests' own: made in an empty folder, thrown away at the end.

A conftest shares it with `from tests.postgres import cluster`. The server refuses to run as root,
so that root runs it as another account of this machine.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest

TIMEOUT_S = 240.0  # far above what anything takes here: only a hang reaches it

_READY = "database system is ready to accept connections"
_USER = "understudy"  # of the database; the server trusts whoever reaches its socket
_ACCOUNTS = ("postgres", "nobody")  # either may own the server's files where the tests run as root


class Cluster:
    """A server on a socket in its own folder. It may be stopped and started within a test."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries = binaries
        self._folder = folder
        self._numbers = count(1)
        self._account = _account() if os.geteuid() == 0 else None
        if self._account is not None:
            os.chown(folder, self._account.pw_uid, self._account.pw_gid)
        made = self._run("initdb", "-U", _USER, "-A", "trust", "--locale=C", "-E", "UTF8", "-N")
        assert made.wait(TIMEOUT_S) == 0
        self._server = made

    def start(self) -> None:
        """Start the server, and wait until it takes connections."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._folder),
            "shared_buffers": "16MB",
            "max_connections": "30",
            "fsync": "off",  # no test cuts the power, and each database is hundreds of files
            "log_min_messages": "log",  # it says when it is ready, and not what it refuses
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        self._server = self._run("postgres", *options)
        assert self._server.stderr is not None
        said: list[str] = []
        while not said or _READY not in said[-1]:
            said.append(self._server.stderr.readline())
            assert said[-1], said

    def stop(self) -> None:
        """End the server; it takes leave of nobody."""
        self._server.send_signal(signal.SIGINT)
        self._server.wait(TIMEOUT_S)
        assert self._server.stderr is not None
        self._server.stderr.close()

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self._url(name)

    def _url(self, name: str) -> str:
        return f"postgresql://{_USER}@/{name}?host={self._folder}"

    def _run(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        account = self._account
        return subprocess.Popen(
            [self._binaries / program, "-D", self._folder / "data", *arguments],
            user=account and account.pw_uid,
            group=account and account.pw_gid,
            extra_groups=[] if account else None,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE if program == "postgres" else subprocess.DEVNULL,
            text=True,
        )


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A server that runs, one for each process of the tests."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("there are no PostgreSQL server binaries on this machine")
    with tempfile.TemporaryDirectory(prefix="understudy-postgres-") as folder:
        server = Cluster(binaries, Path(folder))
        server.start()
        yield server
        server.stop()


def _binaries() -> Path | None:
    """The folder of `initdb`: the one of the newest version."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])
    )
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


def _account() -> pwd.struct_passwd:
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    return next(known[name] for name in _ACCOUNTS if name in known)
