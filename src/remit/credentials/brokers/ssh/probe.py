"""Asks a real ``sshd`` whether it lets a certificate in."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from remit.credentials.brokers.ssh.certificates import (
    NAME,
    About,
    Grant,
    SigningKey,
    check_grant,
    private_text,
    shown,
    sign_certificate,
)
from remit.credentials.certificates.issuing import Probe
from remit.credentials.certificates.publishing import end
from remit.credentials.port import Surroundings
from remit.model.errors import BrokerError, ConfigError

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,254}\Z")


class ProbeOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a certificate of a revoked serial is shown, to be refused."""

    host: str
    user: str
    known_hosts_file: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 22
    principal: str | None = None
    seconds: Annotated[float, msgspec.Meta(gt=0, le=60)] = 5.0


class SshProbe(Probe):
    """Logs in with OpenSSH's own client, asking for no session; so no command is ever run."""

    def __init__(
        self, said: ProbeOptions, surroundings: Surroundings, authority: SigningKey, where: str
    ) -> None:
        self.seconds = said.seconds
        self._said = said
        self._hosts = surroundings.path(said.known_hosts_file)
        self._clock = surroundings.clock
        self._authority = authority
        self._grant = Grant(
            principals=(said.principal or said.user,), force_command="exit 1", extensions=()
        )
        check_grant(self._grant)
        for key, value, shape in (("host", said.host, _HOST), ("user", said.user, NAME)):
            if not shape.match(value):
                raise ConfigError(f"{where}, `probe.{key}`: `{shown(value)}` is no {key}")
        found = shutil.which("ssh")
        if found is None:
            raise ConfigError(f"{where}: `probe` needs OpenSSH's client `ssh` on the PATH")
        self._ssh = found

    async def reach(self) -> None:
        """See that an SSH server answers.

        Raises:
            BrokerError: none does.
        """
        try:
            async with asyncio.timeout(self.seconds):
                reader, writer = await asyncio.open_connection(self._said.host, self._said.port)
                try:
                    line = await reader.readline()
                finally:
                    writer.close()
        except (OSError, ValueError) as error:
            raise BrokerError(f"`{self._said.host}` does not answer: is its sshd up?") from error
        if not line.startswith(b"SSH-"):
            raise BrokerError(f"`{self._said.host}` does not speak SSH at that port")

    async def accepts(self, serial: int, until: int) -> bool:
        """Log in without a session; say whether that is let in.

        Raises:
            BrokerError: neither let in nor refused.
        """
        key = Ed25519PrivateKey.generate()
        now = int(self._clock().timestamp())
        about = About(serial=serial, key_id="remit-probe", now=now, until=until)
        certificate = await asyncio.to_thread(
            sign_certificate, self._authority, key, self._grant, about
        )
        with tempfile.TemporaryDirectory(prefix="remit-probe-") as folder:
            identity = _written(Path(folder), private_text(key), certificate)
            try:
                async with asyncio.timeout(self.seconds):
                    return await self._ask(identity)
            except TimeoutError as error:
                raise BrokerError(
                    f"`{self._said.host}` did not answer the probe in {self.seconds:g} seconds"
                ) from error

    async def _ask(self, identity: Path) -> bool:
        said = self._said
        settings = {
            "LogLevel": "VERBOSE",
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "IdentityFile": f'"{identity}"',
            "CertificateFile": f'"{identity}-cert.pub"',
            "PreferredAuthentications": "publickey",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": f'"{self._hosts}"',
            "GlobalKnownHostsFile": "/dev/null",
            "ControlPath": "none",
            "ClearAllForwardings": "yes",
        }
        process = await asyncio.create_subprocess_exec(
            *(self._ssh, "-F", "/dev/null", "-N", "-T", "-p", str(said.port), "-l", said.user),
            *(part for key, value in settings.items() for part in ("-o", f"{key}={value}")),
            *("--", said.host),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
            start_new_session=True,
        )
        refused = f"{said.user}@{said.host}: Permission denied (".encode()
        try:
            assert process.stderr is not None  # noqa: S101 - a pipe was asked for
            with contextlib.suppress(ValueError):  # a line without end
                async for line in process.stderr:
                    if line.startswith(b"Authenticated to "):
                        return True
                    if line.startswith(refused):
                        return False
        finally:
            await end(process)
        raise BrokerError(
            f"`{said.host}` neither let the probe in nor refused it: is its sshd up, and its host "
            "key in `probe.known_hosts_file`?"
        )


def _written(folder: Path, private: str, certificate: str) -> Path:
    identity = folder / "id"
    identity.touch(mode=0o600)
    identity.write_text(private)
    (folder / "id-cert.pub").write_text(certificate + "\n")
    return identity
