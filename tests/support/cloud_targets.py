"""The brokers of three clouds and their servers, as the conformance suite and the stories use them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
from aws import ACCOUNT, REGION, Server
from botocore.exceptions import ClientError
from github_server import CLIENT_ID, GitHub
from github_server import INSTALLATION as NUMBER
from kubernetes_server import NAMESPACE, Cluster

from remit.credentials.brokers.aws.broker import AwsBroker
from remit.credentials.brokers.github.broker import GitHubBroker
from remit.credentials.brokers.kubernetes.broker import KubernetesBroker
from remit.credentials.port import Surroundings
from remit.model.lease import Credential

INSTALLATION = "remit-0a1b2c3d"
READ = {"policy": [{"Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::reports/*"]}]}


DENIES: dict[str, Any] = {
    "revoke": "session",
    "revoker_role": f"arn:aws:iam::{ACCOUNT}:role/revoker",
}


class AwsTarget:
    """One broker and the account, as the suite uses them."""

    installation = INSTALLATION
    names_are_ours = True
    grant: Mapping[str, Any] = READ

    def __init__(self, server: Server, http: aiohttp.ClientSession, **options: Any) -> None:
        self.server, self.http = server, http
        self.ahead = timedelta(0)
        server.ahead(0)
        self.options = {
            "role": f"arn:aws:iam::{ACCOUNT}:role/agent",
            "region": REGION,
            "sts_url": server.url,
            "iam_url": server.url,
            "timeout_seconds": 5.0,
            **options,
        }
        self.broker = self.another()

    def another(self, **options: Any) -> AwsBroker:
        """Return a broker as another run of Remit would make it."""
        surroundings = Surroundings(
            http=self.http,
            clock=lambda: datetime.now(UTC) + self.ahead,
            signer=self.server.issuer,
            installation=INSTALLATION,
            state=Path("/nonexistent"),
            path=Path,
        )
        return AwsBroker("aws", {**self.options, **options}, surroundings)

    async def accepts(self, credential: Credential, key: str = "reports/march.csv") -> bool:
        return await asyncio.to_thread(self.reads, credential, key)

    def reads(self, credential: Credential, key: str) -> bool:
        values = credential.values
        client = self.server.client(
            "s3", values["access_key_id"], values["secret_access_key"], values["session_token"]
        )
        bucket, _, name = key.partition("/")
        try:
            client.get_object(Bucket=bucket, Key=name)
        except ClientError as error:
            if error.response["Error"]["Code"] not in {"AccessDenied", "ExpiredToken"}:
                raise
            return False
        return True

    async def down(self) -> None:
        self.server.stop()

    async def up(self) -> None:
        self.server.go_on()

    async def expire(self, credential: Credential) -> None:
        self.ahead = timedelta(seconds=1100)
        self.server.ahead(1100)


class GitHubTarget:
    """One broker and its GitHub, as the suite uses them."""

    installation = "remit-0a1b2c3d"
    names_are_ours = True  # within one run; after a restart it owns up, below
    grant: Mapping[str, Any] = {"repositories": ["site"], "permissions": {"contents": "read"}}

    def __init__(self, server: GitHub, http: aiohttp.ClientSession, folder: Path) -> None:
        self.server, self.http, self.folder = server, http, folder
        self.ahead = timedelta(0)
        self.key = folder / "app.pem"
        self.key.touch(mode=0o600)
        self.key.write_bytes(server.key.as_pem(private=True))
        self.broker = self.another()

    def another(self, **options: Any) -> GitHubBroker:
        """Return a broker as another run of Remit would make it."""
        given = {
            "client_id": CLIENT_ID,
            "private_key_file": str(self.key),
            "installation_id": NUMBER,
            "api_url": self.server.url,
            "timeout_seconds": 3.0,
            **options,
        }
        surroundings = Surroundings(
            http=self.http,
            clock=lambda: datetime.now(UTC) + self.ahead,
            signer=None,  # type: ignore[arg-type]
            installation=self.installation,
            state=self.folder,
            path=Path,
        )
        return GitHubBroker(
            "github", {k: v for k, v in given.items() if v is not None}, surroundings
        )

    async def status(self, credential: Credential, path: str) -> int:
        headers = {"Authorization": f"Bearer {credential.values['token']}"}
        async with self.http.get(self.server.url + path, headers=headers) as answer:
            return answer.status

    async def accepts(self, credential: Credential) -> bool:
        status = await self.status(credential, "/repos/corp/site/contents/README.md")
        assert status in {200, 401}
        return status == 200

    async def down(self) -> None:
        await self.server.down()

    async def up(self) -> None:
        await self.server.up()

    async def expire(self, credential: Credential) -> None:
        raise AssertionError("it takes back at once")


class KubernetesTarget:
    """One broker and its cluster, as the suite uses them."""

    installation = "remit-0a1b2c3d"
    names_are_ours = True
    grant: Mapping[str, Any] = {"service_account": "deployer"}

    def __init__(self, server: Cluster, http: aiohttp.ClientSession, folder: Path) -> None:
        self.server, self.http, self.folder = server, http, folder
        self.ahead = timedelta(0)
        self.token = folder / "token"
        self.token.touch(mode=0o600)
        self.token.write_text(server.admin + "\n")
        self.broker = self.another()

    def another(self, **options: Any) -> KubernetesBroker:
        """Return a broker as another run of Remit would make it."""
        given = {
            "url": self.server.url,
            "namespace": NAMESPACE,
            "token_file": str(self.token),
            **options,
        }
        surroundings = Surroundings(
            http=self.http,
            clock=lambda: datetime.now(UTC) + self.ahead,
            signer=None,  # type: ignore[arg-type]
            installation=self.installation,
            state=self.folder,
            path=Path,
        )
        return KubernetesBroker("kubernetes", given, surroundings)

    async def accepts(self, credential: Credential) -> bool:
        headers = {"Authorization": f"Bearer {credential.values['token']}"}
        url = f"{credential.values['server']}/api/v1/namespaces/{NAMESPACE}/pods"
        async with self.http.get(url, headers=headers) as answer:
            assert answer.status in {200, 401}
            return answer.status == 200

    async def down(self) -> None:
        await self.server.down()

    async def up(self) -> None:
        await self.server.up()

    async def expire(self, credential: Credential) -> None:
        raise AssertionError("it takes back at once")
