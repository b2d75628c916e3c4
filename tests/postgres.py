"""A PostgreSQL server of our own in a temporary directory, from Debian's binaries."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest

__all__ = ["Server", "find_binaries"]

_PASSWORD = "hush-hush"


def find_binaries() -> Path:
    """Where initdb and pg_ctl are; skips where there is none, and fails in CI."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    if found:
        return found[-1].parent
    if on_path:
        return Path(on_path).resolve().parent
    message = "no PostgreSQL: apt-get install postgresql"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


class Server:
    """A running server, on a port of its own; it refuses to run as root, so root becomes somebody else."""

    def __init__(self) -> None:
        self._binaries = find_binaries()
        self.directory = Path(tempfile.mkdtemp(prefix="quantxai-postgres-"))
        self._as: list[str] = []
        if os.geteuid() == 0:
            name = next(n for n in ("postgres", "nobody") if n in {user.pw_name for user in pwd.getpwall()})
            self._as = ["runuser", "-u", name, "--"]
            shutil.chown(self.directory, name)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        password = self.directory / "password"
        password.write_text(_PASSWORD)
        password.chmod(0o644)
        self._run(
            "initdb", "--username", "study", "--auth", "scram-sha-256", "--pwfile", str(password), "--no-sync"
        )
        self.start()

    def start(self) -> None:
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {self.directory} -c fsync=off"
        self._run("pg_ctl", "--wait", "--log", str(self.directory / "log"), "--options", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it: fast closes its connections, immediate is a crash."""
        self._run("pg_ctl", "--wait", "--mode", mode, "stop")

    def remove(self) -> None:
        self.stop("immediate")
        shutil.rmtree(self.directory)

    def url(self, database: str, password: str = _PASSWORD) -> str:
        return f"postgresql://study:{password}@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """The address of a new, empty database."""
        import psycopg

        name = f"study_{uuid.uuid4().hex[:8]}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def _run(self, program: str, *arguments: str) -> None:
        where = ["-D", str(self.directory / "data")]
        done = subprocess.run(
            [*self._as, str(self._binaries / program), *where, *arguments],
            cwd=self.directory,
            stdout=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            log = self.directory / "log"
            raise RuntimeError(f"{program}: {done.stdout}\n{log.read_text() if log.exists() else ''}")
