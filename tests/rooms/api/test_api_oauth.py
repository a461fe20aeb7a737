"""Remit as an issuer of access tokens: what is public, who may ask, and what an answer gives away."""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from processes import free_port

from remit.app.compose import House
from remit.app.config import load
from remit.app.control import rotate
from remit.app.serve import serving
from remit.credentials.brokers.jwt.broker import JwtBroker
from remit.model.subject import Environment, SpiffeId
from remit.tasks.mandates import MANDATE_TYP
from remit.testing.broker_suite import Lab

CONFIG = """\
[authority]
state = "s"
trust_domain = "issuer.example"
listen = "127.0.0.1:{port}"
[broker.crm]
kind = "jwt"
audience = "https://crm.example"
introspected = true
resources = ["spiffe://issuer.example/agent/crm"]
[broker.proven]
kind = "jwt"
audience = "https://crm.example"
introspected = true
bound = "dpop"
[broker.certified]
kind = "jwt"
audience = "https://crm.example"
introspected = true
bound = "mtls"
resources = ["spiffe://issuer.example/agent/crm"]
[broker.open]
kind = "jwt"
audience = "https://open.example"
"""


@dataclass
class Issuer:
    house: House
    url: str
    installation: str = "remit-0a1b2c3d"
    names_are_ours: bool = True
    grant: dict[str, Any] = field(default_factory=dict)

    @property
    def broker(self) -> JwtBroker:
        return self.named("crm")

    def named(self, name: str) -> JwtBroker:
        made = self.house.authority.leases.brokers[name]
        assert isinstance(made, JwtBroker)
        return made

    def svid(self, name: str, audience: str = "remit") -> str:
        return self.house.trust_domain.issue_jwt_svid(
            SpiffeId("issuer.example", f"/agent/{name}"), [audience]
        )

    async def ask(
        self, path: str, body: bytes | None = None, *, token: str | None = None, kind: str = ""
    ) -> tuple[int, Any, dict[str, str]]:
        headers = {"Content-Type": kind or "application/x-www-form-urlencoded"} if body else {}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(f"{self.url}{path}", data=body, headers=headers)

        def fetch() -> tuple[int, Any, dict[str, str]]:
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    data = answer.read()
                    return answer.status, json.loads(data) if data else None, dict(answer.headers)
            except urllib.error.HTTPError as error:
                return error.code, json.loads(error.read()), dict(error.headers)

        return await asyncio.to_thread(fetch)

    async def introspect(self, token: str, by: str = "crm") -> Any:
        body = urllib.parse.urlencode({"token": token}).encode()
        status, said, headers = await self.ask("/oauth/introspect", body, token=self.svid(by))
        assert status == 200
        assert headers["cache-control"] == "no-store"
        return said


@pytest.fixture
async def issuer(tmp_path: Path) -> AsyncIterator[Issuer]:
    port = free_port()
    (tmp_path / "remit.toml").write_text(CONFIG.format(port=port))
    async with serving(load(tmp_path / "remit.toml")) as house:
        for name in ("crm", "other"):
            await house.authority.registry.register(
                name,
                by="user:ada",
                owner="user:ada",
                purpose="To ask",
                environment=Environment.DEV,
                autonomy=1,
                templates=(),
            )
        yield Issuer(house, f"http://127.0.0.1:{port}")


async def test_the_metadata_is_what_both_specifications_want(issuer: Issuer):
    for name in ("oauth-authorization-server", "openid-configuration"):
        status, said, headers = await issuer.ask(f"/.well-known/{name}")
        assert (status, headers["cache-control"]) == (200, "public, max-age=60")
        assert said["issuer"] == issuer.url == issuer.house.loaded.url
        assert said["jwks_uri"].startswith(f"{issuer.url}/")
        assert not [key for key, value in said.items() if value in ([], "", None)]
        assert said["response_types_supported"]
        assert said["tls_client_certificate_bound_access_tokens"] is True
        status, keys, _ = await issuer.ask(said["jwks_uri"].removeprefix(issuer.url))
        assert status == 200
        for key in keys["keys"]:
            assert set(key) == {"kty", "crv", "x", "y", "kid", "alg", "use"}, "nothing private"


async def test_a_key_is_published_before_it_signs(issuer: Issuer):
    _, before, _ = await issuer.ask("/oauth/jwks")
    await rotate(issuer.house, "user:ada")
    token = (await issuer.broker.issue(Lab(issuer).order())).values["token"]
    kid = json.loads(_part(token, 0))["kid"]
    assert kid in {key["kid"] for key in before["keys"]}


async def test_the_resource_is_told_and_everybody_else_learns_nothing(issuer: Issuer):
    order = Lab(issuer).order()
    token = (await issuer.broker.issue(order)).values["token"]
    said = await issuer.introspect(token)
    assert (said["active"], said["token_type"], said["jti"]) == (
        True, "Bearer", order.lease.handle,
    )  # fmt: skip
    assert await issuer.introspect(token, by="other") == {"active": False}
    body = urllib.parse.urlencode({"token": token}).encode()
    for own in (None, "x.y.z", token, issuer.svid("nobody"), issuer.svid("crm", "elsewhere")):
        status, answer, headers = await issuer.ask("/oauth/introspect", body, token=own)
        assert status == 401
        assert "www-authenticate" in headers
        assert "active" not in answer


@pytest.mark.parametrize(
    ("name", "member", "kind"),
    [("proven", "jkt", "DPoP"), ("certified", "x5t#S256", "Bearer")],
)
async def test_the_resource_is_told_what_a_token_is_bound_to(
    issuer: Issuer, name: str, member: str, kind: str
):
    """RFC 9449 section 6.2, RFC 8705 section 3.2."""
    broker, order = issuer.named(name), Lab(issuer).order()
    token = (await broker.issue(order)).values["token"]
    said = await issuer.introspect(token)
    bound = json.loads(_part(token, 1))["cnf"]
    assert bound.keys() == {member}
    assert (said["cnf"], said["token_type"]) == (bound, kind)
    await broker.revoke(order.lease, None)
    assert await issuer.introspect(token) == {"active": False}


async def test_whoever_is_not_the_resource_revokes_nothing(issuer: Issuer):
    order = Lab(issuer).order()
    token = (await issuer.broker.issue(order)).values["token"]
    body = urllib.parse.urlencode({"token": token}).encode()
    assert (await issuer.ask("/oauth/revoke", body))[0] == 401
    assert (await issuer.ask("/oauth/revoke", body, token=issuer.svid("other")))[0] == 200
    assert (await issuer.introspect(token))["active"]


async def test_only_an_access_token_that_is_alive_is_active(issuer: Issuer):
    domain, lab = issuer.house.trust_domain, Lab(issuer)
    order = lab.order()
    token = (await issuer.broker.issue(order)).values["token"]
    claims = json.loads(_part(token, 1))
    head, payload, signature = token.split(".")
    for other in (
        domain.sign(claims, typ=MANDATE_TYP),
        domain.sign(claims, typ="remit-task+jwt"),
        domain.sign(claims, typ="JWT"),
        domain.sign({**claims, "jti": "remit-0a1b2c3d-unknown"}, typ="at+jwt"),
        domain.sign({**claims, "jti": [order.lease.handle]}, typ="at+jwt"),
        domain.sign({k: v for k, v in claims.items() if k != "jti"}, typ="at+jwt"),
        domain.sign({**claims, "exp": 1}, typ="at+jwt"),
        issuer.svid("crm"),
        f"{head}.{payload}.",
        f"{head}.{payload}.{signature[:-4]}AAAA",
        f"eyJhbGciOiJub25lIn0.{payload}.",
        "x",
        "\u00e9" * 20,
        "a" * 100_000,
    ):
        assert await issuer.introspect(other) == {"active": False}
    assert (await issuer.introspect(token))["active"]
    await issuer.broker.revoke(order.lease, None)
    assert await issuer.introspect(token) == {"active": False}
    another = (await issuer.broker.issue(lab.order())).values["token"]
    await rotate(issuer.house, "user:ada", compromised=True)
    assert await issuer.introspect(another) == {"active": False}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"token": "x"}', "application/json"),
        (b"token=x", "text/plain"),
        (b"token=x&token=y", ""),
        (b"other=x", ""),
        (b"token=", ""),
        (b"\xff\xfe", ""),
        (b"&".join(b"a%d=b" % n for n in range(20)), ""),
        (b"token=" + b"x" * 300_000, ""),
    ],
    ids=["json", "text", "twice", "other", "empty", "bytes", "many", "long"],
)
async def test_what_is_no_form_with_one_token_is_refused(issuer: Issuer, body: bytes, kind: str):
    for path in ("/oauth/introspect", "/oauth/revoke"):
        status, said, _ = await issuer.ask(path, body, token=issuer.svid("crm"), kind=kind)
        assert (status, said["error"]) == (400, "invalid_request")


def _part(token: str, number: int) -> bytes:
    part = token.split(".")[number]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
