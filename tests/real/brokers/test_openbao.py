"""The OpenBao broker at a real OpenBao: tokens, secrets of a database engine, lost mints, logins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hvac
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwt
from joserfc.jwk import ECKey
from openbao import Server, openbao_server

from remit.credentials.brokers.openbao import OpenBaoBroker
from remit.credentials.port import Surroundings
from remit.model.lease import Credential
from remit.testing.broker_suite import BrokerSuite

pytestmark = pytest.mark.real

INSTALLATION = "remit-0a1b2c3d"
READER = """\
path "auth/token/lookup-self" { capabilities = ["read"] }
path "pki/issue/web" { capabilities = ["update"] }
path "secret/data/app" { capabilities = ["read"] }
"""


class Es256:
    """Signs as Remit does."""

    issuer = "https://remit.example"

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())

    def public_pem(self) -> str:
        return (
            self._key.public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            .decode()
        )

    def sign_jwt(self, claims: Mapping[str, Any], *, typ: str = "JWT") -> str:
        pem = self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        header = {"alg": "ES256", "typ": typ}
        return jwt.encode(header, {**claims, "iss": self.issuer}, ECKey.import_key(pem))


class Bao:
    """One broker and its server, as the suite uses them."""

    installation = INSTALLATION
    names_are_ours = True

    def __init__(
        self, server: Server, folder: Path, grant: Mapping[str, Any], **options: Any
    ) -> None:
        self.server, self.folder, self.grant = server, folder, grant
        self.signer = Es256()
        self.options = {
            "url": server.url,
            "token_role": "remit",
            "timeout_seconds": 1.0,
            **options,
        }
        if "login" not in options:
            self.options["token_file"] = str(server.remits_token(folder))
        self.broker = self.another()

    def another(self, state: str = "state", **options: Any) -> OpenBaoBroker:
        """Return a broker as another run of Remit would make it."""
        surroundings = Surroundings(
            http=None,  # type: ignore[arg-type]
            clock=lambda: datetime.now(UTC),
            signer=self.signer,
            installation=INSTALLATION,
            state=self.folder / state,
            path=Path,
        )
        return OpenBaoBroker("bao", {**self.options, **options}, surroundings)

    async def accepts(self, credential: Credential) -> bool:
        client = self.server.client(credential.values["token"])
        try:
            await asyncio.to_thread(client.auth.token.lookup_self)
        except hvac.exceptions.Forbidden:
            return False
        return True

    async def down(self) -> None:
        self.server.stop()

    async def up(self) -> None:
        self.server.go_on()

    async def expire(self, credential: Credential) -> None:
        raise AssertionError("it takes back at once")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with openbao_server() as running:
        root = running.root
        root.sys.create_or_update_policy("reader", READER)
        running.role("reader", "default")
        root.sys.enable_secrets_engine("pki")
        root.write("pki/root/generate/internal", common_name="ca", key_type="ec", key_bits=256)
        root.write(
            "pki/roles/web",
            allow_any_name=True,
            key_type="ec",
            key_bits=256,
            generate_lease=True,
            max_ttl="1h",
        )
        root.secrets.kv.v2.create_or_update_secret("app", secret={"API-Key": "k" * 20, "n": 3})
        yield running


@pytest.fixture
async def bao(server: Server, tmp_path: Path) -> AsyncIterator[Bao]:
    made = Bao(server, tmp_path, {"policies": ["reader"]})
    yield made
    await made.broker.close()


class TestTokens(BrokerSuite):
    @pytest.fixture
    def target(self, bao: Bao) -> Bao:
        return bao


class TestWithoutListing(BrokerSuite):
    """What is left where Remit's token may not list accessors: its own notes."""

    @pytest.fixture
    async def target(self, server: Server, tmp_path: Path) -> AsyncIterator[Bao]:
        made = Bao(server, tmp_path, {"policies": ["reader"]}, list_accessors=False)
        yield made
        await made.broker.close()


class TestSecrets(BrokerSuite):
    """Certificates of the pki engine, with leases: gone from the engine when revoked."""

    @pytest.fixture
    async def target(self, server: Server, tmp_path: Path) -> AsyncIterator[Bao]:
        grant = {
            "policies": ["reader"],
            "secret": "pki/issue/web",
            "parameters": {"common_name": "agent.example"},
            "send_ttl": True,
        }
        made = Pki(server, tmp_path, grant)
        yield made
        await made.broker.close()


class Pki(Bao):
    async def accepts(self, credential: Credential) -> bool:
        serial = credential.values["serial_number"]
        found = await asyncio.to_thread(self.server.root.read, f"pki/cert/{serial}")
        return found["data"]["revocation_time"] == 0
