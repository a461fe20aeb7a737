"""What holds for every broker that asks its target over HTTP, whatever the target is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from joserfc.jwk import RSAKey
from scripted_target import Script, lab, surroundings

from remit.credentials.brokers.aws.broker import AwsBroker
from remit.credentials.brokers.github.broker import GitHubBroker
from remit.credentials.brokers.kubernetes.broker import KubernetesBroker
from remit.credentials.port import Broker
from remit.model.errors import BrokerError, ConfigError, NotMintedError

KEY = RSAKey.generate_key(2048).as_pem(private=True).decode()


@dataclass(frozen=True)
class Kind:
    broker: Any
    options: dict[str, Any]
    address: str
    secret: str
    grant: dict[str, Any]

    def make(self, folder: Path, http: Any = None, **options: Any) -> Broker:
        given = {self.secret: "env:TARGETS_SECRET", **self.options, **options}
        wanted = {key: value for key, value in given.items() if value is not None}
        return self.broker("mine", wanted, surroundings(folder, http))


KINDS = {
    "aws": Kind(
        broker=AwsBroker,
        options={
            "role": "arn:aws:iam::123456789012:role/agents/reports",
            "region": "eu-central-1",
            "login": "keys",
            "access_key_id": "AKIAIOSFODNN7EXAMPLE",
        },
        address="sts_url",
        secret="secret_access_key",
        grant={"policy": [{"Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::reports/*"]}]},
    ),
    "github": Kind(
        broker=GitHubBroker,
        options={"client_id": "Iv1.abcdef", "installation_id": 1},
        address="api_url",
        secret="private_key",
        grant={"repositories": ["site"], "permissions": {"contents": "read"}},
    ),
    "kubernetes": Kind(
        broker=KubernetesBroker,
        options={"url": "https://127.0.0.1:6443", "namespace": "agents"},
        address="url",
        secret="token",
        grant={"service_account": "deployer"},
    ),
}


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kind:
    monkeypatch.setenv("TARGETS_SECRET", KEY if request.param == "github" else "a-secret-of-ours")
    return KINDS[request.param]


async def test_a_target_that_hangs_may_have_minted(tmp_path: Path, kind: Kind, script: Script):
    script.hang = asyncio.Event()
    async with aiohttp.ClientSession(trust_env=False) as http:
        broker = kind.make(tmp_path, http, **{kind.address: script.url}, timeout_seconds=0.2)
        with pytest.raises(BrokerError, match=r"did not answer within 0\.2 seconds") as raised:
            await broker.issue(lab(broker, kind.grant).order())
    assert not isinstance(raised.value, NotMintedError)
    assert script.asked


async def test_a_target_that_nobody_reaches_minted_nothing(tmp_path: Path, kind: Kind):
    async with aiohttp.ClientSession(trust_env=False) as http:
        broker = kind.make(tmp_path, http, **{kind.address: "http://127.0.0.1:1"})
        with pytest.raises(NotMintedError, match="not reached"):
            await broker.issue(lab(broker, kind.grant).order())


async def test_a_redirect_is_not_followed_with_a_secret(tmp_path: Path, kind: Kind, script: Script):
    script.answers = [(307, b""), (200, b"")]
    script.headers = {"Location": "/elsewhere"}
    async with aiohttp.ClientSession(trust_env=False) as http:
        broker = kind.make(tmp_path, http, **{kind.address: script.url})
        with pytest.raises(BrokerError) as raised:
            await broker.issue(lab(broker, kind.grant).order())
    assert not isinstance(raised.value, NotMintedError)
    assert len(script.asked) == 1


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660])
def test_a_secret_that_others_may_read_is_refused(tmp_path: Path, kind: Kind, mode: int):
    (tmp_path / "secret").write_text("shared-with-everyone")
    (tmp_path / "secret").chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600") as raised:
        kind.make(tmp_path, **{kind.secret: None, f"{kind.secret}_file": "secret"})
    assert "shared-with" not in str(raised.value)
