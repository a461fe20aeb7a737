"""moto's KMS on loopback for tests, with users who may do what their policy says."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.session
from aws import ACCOUNT, MOTO, REGION, require_moto
from processes import ROOT, free_port


@dataclass
class MotoKms:
    """One running account. Whoever asks is looked at; :meth:`user` alone goes around that."""

    url: str
    process: subprocess.Popen[bytes]

    def uri(self, alias: str) -> str:
        """Return the URI of a key by its alias."""
        host = self.url.removeprefix("http://")
        return f"awskms://{host}/arn:aws:kms:{REGION}:{ACCOUNT}:alias/{alias}"

    def user(self, name: str, *actions: str) -> tuple[str, str]:
        """Make a user who may do this; return the id of a key, and the key."""
        self.enforce(on=False)
        client: Any = botocore.session.get_session().create_client(
            "iam",
            region_name=REGION,
            endpoint_url=self.url,
            aws_access_key_id="root",
            aws_secret_access_key="root",
        )
        allow = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
        client.create_user(UserName=name)
        client.put_user_policy(UserName=name, PolicyName="own", PolicyDocument=policy)
        made = client.create_access_key(UserName=name)["AccessKey"]
        self.enforce(on=True)
        return made["AccessKeyId"], made["SecretAccessKey"]

    def enforce(self, *, on: bool) -> None:
        """Whether policies decide; without that everybody may do everything."""
        request = urllib.request.Request(
            f"{self.url}/moto-api/reset-auth",
            data=b"0" if on else b"inf",
            method="POST",
            headers={"Content-Type": "text/plain"},
        )
        urllib.request.urlopen(request, timeout=10).close()

    def stop(self) -> None:
        """Let it hang."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it answer again."""
        self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def moto_kms() -> Iterator[MotoKms]:
    """Run an account while the block runs."""
    require_moto()
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="remit-kms-") as home:
        log = Path(home) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, ROOT / "tests/support/moto_kms_server.py", str(port)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=home,
                env={"PATH": os.environ["PATH"], "HOME": home, "PYTHONPATH": str(MOTO)},
            )
        try:
            server = MotoKms(f"http://127.0.0.1:{port}", process)
            deadline = time.monotonic() + 90
            while not _answers(server):
                assert process.poll() is None, log.read_text(errors="replace")[-2000:]
                assert time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
                time.sleep(0.2)
            yield server
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait(10)


def _answers(server: MotoKms) -> bool:
    try:
        server.enforce(on=True)
    except urllib.error.HTTPError:
        raise
    except OSError:
        return False
    return True
