"""A real sshd for tests: on loopback, in a folder of its own, and gone afterwards.

It takes certificates of one authority, heeds one list, and knows one user: whoever runs the tests.
Every login is told what it may do by the certificate alone.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from certificate_house import program
from processes import ROOT, Started, free_port, running

USER = pwd.getpwuid(os.getuid()).pw_name
ACCOUNT = "deploy"
"""The principal that the server lets in as USER."""

_CLIENT = ("-F", "/dev/null", "-T", "-n")
_SECONDS = 20


@dataclass
class Sshd:
    """One server, which can be stopped and started again."""

    folder: Path
    port: int
    authority: Path
    krl: Path | None
    more: str = ""
    keys: Path | None = None
    """Keys that need no certificate (authorized_keys): an operator's, with forced commands."""
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    process: Started | None = None

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def lay(self) -> None:
        """Write its host key and its configuration."""
        self.folder.mkdir(exist_ok=True)
        keygen("-q", "-t", "ed25519", "-N", "", "-f", self.folder / "host_key")
        public = (self.folder / "host_key.pub").read_text().split()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {public[0]} {public[1]}\n")
        (self.folder / "principals").write_text(f"{ACCOUNT}\n{USER}\n")
        revoked = f"RevokedKeys {self.krl}\n" if self.krl else ""
        (self.folder / "sshd_config").write_text(
            f"""ListenAddress 127.0.0.1:{self.port}
HostKey {self.folder / "host_key"}
PidFile none
UsePAM no
StrictModes no
LogLevel VERBOSE
AuthenticationMethods publickey
AuthorizedKeysFile {self.keys or "none"}
PermitRootLogin prohibit-password
TrustedUserCAKeys {self.authority}
{revoked}AuthorizedPrincipalsFile {self.folder / "principals"}
{self.more}"""
        )

    def start(self) -> None:
        server = program("sshd", "openssh")
        libraries = ROOT / ".cache/real/openssh/usr/lib/x86_64-linux-gnu"
        command = [server, "-D", "-e", "-f", self.folder / "sshd_config"]
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.process = self._stack.enter_context(
            running(
                command,
                log=self.folder / "log",
                env={"LD_LIBRARY_PATH": str(libraries)},
                port=self.port,
            )
        )

    def stop(self) -> None:
        self._stack.close()

    def login(
        self, values: Mapping[str, str], *command: str, folder: Path, options: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Log in with a credential as the OpenSSH client would for anybody, and run a command."""
        return subprocess.run(
            [
                "ssh",
                *_CLIENT,
                *options,
                *self.identity(values, folder),
                "127.0.0.1",
                *command,
            ],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )

    def identity(self, values: Mapping[str, str], folder: Path) -> list[str]:
        """Write a credential's files; return the client's arguments that use them."""
        folder.mkdir(exist_ok=True)
        key = folder / "id"
        key.touch(mode=0o600)
        key.write_text(values["private_key"])
        (folder / "id-cert.pub").write_text(values["certificate"] + "\n")
        settings = {
            "IdentityFile": key,
            "CertificateFile": folder / "id-cert.pub",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "BatchMode": "yes",
            "UserKnownHostsFile": self.known_hosts,
            "StrictHostKeyChecking": "yes",
            "ConnectTimeout": 10,
        }
        words = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
        return [*words, "-p", str(self.port), "-l", USER]


def keygen(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run ssh-keygen, whatever comes of it."""
    return subprocess.run(
        ["ssh-keygen", *arguments], capture_output=True, text=True, timeout=_SECONDS, check=False
    )


@contextlib.contextmanager
def sshd(
    folder: Path,
    authority: Path,
    krl: Path | None,
    *,
    port: int | None = None,
    more: str = "",
    keys: Path | None = None,
) -> Iterator[Sshd]:
    """Run a server that trusts ``authority`` and heeds ``krl``."""
    server = Sshd(folder, port or free_port(), authority, krl, more, keys)
    server.lay()
    try:
        server.start()
        yield server
    finally:
        server.stop()
