"""moto on loopback for tests, with an account as docs/brokers/aws.md tells an operator to make it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError
from joserfc import jwt
from joserfc.jwk import ECKey
from processes import ROOT, free_port

MOTO = ROOT / ".cache/real/moto"
REGION = "eu-central-1"
ISSUER = "remit.example.com"
ACCOUNT = "123456789012"
PROBE = "sts:GetAccessKeyInfo"


class Issuer:
    """Signs as Remit does; AWS knows its keys."""

    issuer = f"https://{ISSUER}"

    def __init__(self, key: ECKey | None = None) -> None:
        self.key = key or ECKey.generate_key("P-256", {"kid": "1"}, auto_kid=False)

    def sign_jwt(self, claims: Mapping[str, Any], *, typ: str = "JWT") -> str:
        header = {"alg": "ES256", "typ": typ, "kid": "1"}
        return jwt.encode(header, {**claims, "iss": self.issuer}, self.key)


def require_moto() -> None:
    """Skip the test where moto is not here."""
    if (MOTO / "moto" / "server.py").exists():
        return
    reason = "moto is not installed: run .ci/real.d/aws"
    if os.environ.get("REMIT_REQUIRE_REAL"):
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass
class Server:
    """One running account."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]
    issuer: Issuer
    key_id: str = ""
    key: str = ""

    def client(self, service: str, *keys: str) -> Any:
        access, secret, token = (*keys, None, None, None)[:3] if keys else ("root", "root", None)
        return botocore.session.get_session().create_client(
            service,
            region_name=REGION,
            endpoint_url=self.url,
            aws_access_key_id=access,
            aws_secret_access_key=secret,
            aws_session_token=token,
            config=Config(
                retries={"total_max_attempts": 1},
                read_timeout=10,
                s3={"addressing_style": "path"},
                proxies={},
            ),
        )

    def enforce(self, *, on: bool) -> None:
        """Whether IAM decides; without it everybody may do everything."""
        request = urllib.request.Request(
            f"{self.url}/moto-api/reset-auth",
            data=b"0" if on else b"inf",
            method="POST",
            headers={"Content-Type": "text/plain"},
        )
        urllib.request.urlopen(request, timeout=10).close()

    def ahead(self, seconds: float) -> None:
        """Set AWS's clock ahead, for the expiry of sessions."""
        (self.folder / "ahead").write_text(str(seconds))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)


def _trust(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def _policy(*actions: str, resource: str = "*") -> str:
    return _trust({"Effect": "Allow", "Action": list(actions), "Resource": resource})


WEB = {
    "Effect": "Allow",
    "Principal": {"Federated": f"arn:aws:iam::{ACCOUNT}:oidc-provider/{ISSUER}"},
    "Action": ["sts:AssumeRoleWithWebIdentity", "sts:SetSourceIdentity", "sts:TagSession"],
    "Condition": {"StringEquals": {f"{ISSUER}:aud": "sts.amazonaws.com", f"{ISSUER}:sub": "remit"}},
}
"""The trust policy of docs/brokers/aws.md; a test compares the two."""

REVOKER = {
    "Effect": "Allow",
    "Action": ["iam:GetRolePolicy", "iam:PutRolePolicy"],
    "Resource": f"arn:aws:iam::{ACCOUNT}:role/agent",
}


def _account(server: Server) -> None:
    iam, s3 = server.client("iam"), server.client("s3")
    user = f"arn:aws:iam::{ACCOUNT}:user/remit"
    own = {"Effect": "Allow", "Principal": {"AWS": user}, "Action": "sts:AssumeRole"}
    for role in ("agent", "other"):
        iam.create_role(RoleName=role, AssumeRolePolicyDocument=_trust(WEB, own))
        iam.put_role_policy(RoleName=role, PolicyName="all", PolicyDocument=_policy("s3:*", PROBE))
    iam.create_role(RoleName="mute", AssumeRolePolicyDocument=_trust(WEB))
    iam.put_role_policy(RoleName="mute", PolicyName="all", PolicyDocument=_policy("s3:*"))
    revoker = {**WEB, "Action": ["sts:AssumeRoleWithWebIdentity"]}
    iam.create_role(RoleName="revoker", AssumeRolePolicyDocument=_trust(revoker))
    # moto does not tell its access control which role IAM's actions are about.
    document = _trust({**REVOKER, "Resource": "*"})
    iam.put_role_policy(RoleName="revoker", PolicyName="deny", PolicyDocument=document)
    iam.create_user(UserName="remit")
    iam.put_user_policy(
        UserName="remit",
        PolicyName="remit",
        PolicyDocument=_policy("sts:AssumeRole", "iam:GetRolePolicy", "iam:PutRolePolicy"),
    )
    made = iam.create_access_key(UserName="remit")["AccessKey"]
    server.key_id, server.key = made["AccessKeyId"], made["SecretAccessKey"]
    for bucket in ("reports", "payroll"):
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
        s3.put_object(Bucket=bucket, Key="march.csv", Body=b"1")
        s3.put_object(Bucket=bucket, Key="april.csv", Body=b"2")


@contextlib.contextmanager
def aws_server(key: ECKey | None = None) -> Iterator[Server]:
    """Run an account while the block runs, which trusts the tokens of an issuer's key."""
    require_moto()
    port, issuer = free_port(), Issuer(key)
    with tempfile.TemporaryDirectory(prefix="remit-aws-") as home:
        folder = Path(home)
        keys = {"keys": [issuer.key.as_dict(private=False)]}
        (folder / "jwks.json").write_text(json.dumps(keys))
        log = folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, ROOT / "tests/support/aws_server.py", str(port), home],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=home,
                env={"PATH": os.environ["PATH"], "HOME": home, "PYTHONPATH": str(MOTO)},
            )
        try:
            server = Server(f"http://127.0.0.1:{port}", folder, process, issuer)
            deadline = time.monotonic() + 90
            while not _answers(server):
                assert process.poll() is None, log.read_text(errors="replace")[-2000:]
                assert time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
                time.sleep(0.2)
            _account(server)
            server.enforce(on=True)
            yield server
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait(10)


def _answers(server: Server) -> bool:
    try:
        server.client("sts").get_caller_identity()
    except (ClientError, EndpointConnectionError):
        return False
    return True
