"""A stock OIDC client finds Remit by its address and takes its tokens: OpenBao's JWT login."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import hvac
import pytest
from openbao import openbao_server
from processes import free_port

from remit.app.config import load
from remit.app.serve import serving
from remit.credentials.brokers.jwt.broker import JwtBroker
from remit.credentials.port import Surroundings
from remit.identity.access_tokens import IssuerSigner
from remit.testing.broker_suite import Lab

pytestmark = pytest.mark.real

AUDIENCE = "https://bao.example"


class Seat:
    installation = "remit-0a1b2c3d"
    names_are_ours = True

    def __init__(self, broker: JwtBroker) -> None:
        self.broker = broker
        self.grant = {"claims": {"team": "support"}}


async def test_openbao_discovers_the_issuer_and_logs_the_tokens_bearer_in(tmp_path: Path):
    (tmp_path / "remit.toml").write_text(
        f'[authority]\nstate = "s"\nlisten = "127.0.0.1:{free_port()}"\n'
    )
    async with serving(load(tmp_path / "remit.toml")) as house:
        url = house.loaded.url

        def broker(audience: str, issuer: str = url) -> Seat:
            surroundings = Surroundings(
                http=None,  # type: ignore[arg-type]
                clock=lambda: datetime.now(UTC),
                signer=IssuerSigner(house.trust_domain, issuer),
                installation=Seat.installation,
                state=tmp_path,
                path=Path,
            )
            return Seat(JwtBroker("bao", {"audience": audience}, surroundings))  # type: ignore[arg-type]

        def log_in(client: hvac.Client, token: str) -> str:
            answer = client.auth.jwt.jwt_login(role="support", jwt=token, use_token=False)
            return str(answer["auth"]["metadata"]["team"])

        with openbao_server() as server:
            root = server.root

            def prepare() -> None:
                root.sys.enable_auth_method("jwt")
                # It fetches the metadata, compares the issuer, and refuses this line otherwise.
                root.auth.jwt.configure(oidc_discovery_url=url, bound_issuer=url)
                root.auth.jwt.create_role(
                    name="support",
                    role_type="jwt",
                    user_claim="sub",
                    allowed_redirect_uris=[],
                    bound_audiences=[AUDIENCE],
                    claim_mappings={"team": "team"},
                )

            await asyncio.to_thread(prepare)
            seat = broker(AUDIENCE)
            _, credential = await Lab(seat).issue()  # type: ignore[arg-type]
            token = credential.values["token"]
            assert await asyncio.to_thread(log_in, root, token) == "support"
            for other in (broker("https://else.example"), broker(AUDIENCE, "https://evil.example")):
                _, refused = await Lab(other).issue()  # type: ignore[arg-type]
                with pytest.raises(hvac.exceptions.VaultError):
                    await asyncio.to_thread(log_in, root, refused.values["token"])
            altered = token[:-8] + "AAAAAAAA"
            with pytest.raises(hvac.exceptions.VaultError):
                await asyncio.to_thread(log_in, root, altered)
