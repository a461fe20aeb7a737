from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from remit.identity.desk import Identity
from remit.identity.federation import Federation, Peer
from remit.identity.oidc import Issuer, Oidc, Rule
from remit.identity.registry import Registry
from remit.identity.trust_domain import TrustDomain
from remit.identity.validation import SvidValidator
from remit.model.errors import UnidentifiedError
from remit.model.subject import Agent, Claim, Environment, SpiffeId
from remit.testing.evidence import MemoryRecorder
from remit.testing.identity import (
    ForeignSigner,
    ManualClock,
    MemoryAgents,
    base64url,
    trust_domain,
)


@dataclass
class Room:
    clock: ManualClock
    authority: TrustDomain
    registry: Registry
    identity: Identity
    foreign: ForeignSigner
    issuer: str
    signer: ForeignSigner
    support: Agent

    def oidc_token(self, **changes: Any) -> str:
        now = int(self.clock().timestamp())
        good = {"iss": self.issuer, "aud": "remit", "exp": now + 60}
        return self.signer.sign({**good, **changes})

    def svid(self, audience: str = "remit", **changes: Any) -> str:
        return self.authority.issue_jwt_svid(self.support.spiffe_id, [audience], **changes)


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    clock, signer, foreign = ManualClock(), ForeignSigner("oidc"), ForeignSigner("f")
    (tmp_path / "foreign.json").write_bytes(foreign.bundle())

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/jwks":
            return web.json_response({"keys": [signer.jwk(use="sig")]})
        return web.json_response({"issuer": url, "jwks_uri": f"{url}/jwks"})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"

    authority = trust_domain(tmp_path, clock=clock)
    registry = Registry(MemoryAgents(), MemoryRecorder(), trust_domain="test.example", clock=clock)
    common: Any = {"by": "o", "owner": "ann", "purpose": "p", "environment": Environment.DEV}
    support = await registry.register("support", **common)
    await registry.register("ci", **common)
    await registry.register("far", **common, spiffe_id=SpiffeId("foreign.example", "/a"))
    federation = Federation(
        authority,
        [Peer(trust_domain="foreign.example", bundle=str(tmp_path / "foreign.json"))],
        clock=clock,
    )
    await federation.refresh()
    rules = (
        Rule(claims={"sub": "ci"}, agent="ci"),
        Rule(claims={"sub": "ghost"}, agent="ghost"),
        Rule(claims={"sub": "spiffe://test.example/agent/support"}, person="nobody"),
        Rule(claims={"sub": "ann"}, person="user:ann", roles=("operator",)),
    )
    async with aiohttp.ClientSession() as session:
        oidc = Oidc([Issuer(issuer=url, audience="remit", rules=rules)], session, clock=clock)
        identity = Identity(registry, SvidValidator(federation, clock=clock), oidc=oidc)
        yield Room(clock, authority, registry, identity, foreign, url, signer, support)
    await runner.cleanup()


async def refused(room: Room, match: str, **claim: Any) -> None:
    with pytest.raises(UnidentifiedError, match=match) as caught:
        await room.identity.identify(Claim(**claim))
    for secret in claim.values():
        assert not isinstance(secret, str) or len(secret) < 20 or secret not in str(caught.value)


async def test_a_jwt_svid_of_ours_shows_its_agent(room: Room) -> None:
    token = room.svid()
    subject = await room.identity.identify(Claim(bearer=token))
    assert subject.agent == room.support
    assert (subject.method, subject.issuer) == ("jwt-svid", "spiffe://test.example")
    assert subject.credential == hashlib.sha256(token.encode()).hexdigest()
    assert await room.identity.identify(Claim(bearer=token)) == subject


async def test_an_x509_svid_shows_its_agent(room: Room) -> None:
    chain = room.authority.issue_x509_svid(room.support.spiffe_id).certificates[0]
    subject = await room.identity.identify(Claim(certificate=chain))
    assert (subject.agent, subject.method) == (room.support, "x509-svid")


async def test_a_jwt_svid_of_a_federated_trust_domain_shows_its_agent(room: Room) -> None:
    exp = int(room.clock().timestamp()) + 60
    token = room.foreign.sign({"sub": "spiffe://foreign.example/a", "aud": "remit", "exp": exp})
    subject = await room.identity.identify(Claim(bearer=token))
    assert (subject.agent.name, subject.issuer) == ("far", "spiffe://foreign.example")
    token = room.foreign.sign({"sub": "spiffe://foreign.example/b", "aud": "remit", "exp": exp})
    await refused(room, "no agent is registered", bearer=token)
    ours = room.foreign.sign({"sub": str(room.support.spiffe_id), "aud": "remit", "exp": exp})
    await refused(room, "no key that signed", bearer=ours)


async def test_an_oidc_token_shows_the_agent_that_its_rule_names(room: Room) -> None:
    subject = await room.identity.identify(Claim(bearer=room.oidc_token(sub="ci")))
    assert (subject.agent.name, subject.method, subject.issuer) == ("ci", "oidc", room.issuer)
    assert str(subject.workload) == "spiffe://test.example/agent/ci"
    await refused(room, "`ghost` is not registered", bearer=room.oidc_token(sub="ghost"))
    await refused(room, "to an agent", bearer=room.oidc_token(sub="ann"))
    await refused(room, "maps this token to anybody", bearer=room.oidc_token(sub="eve"))


async def test_an_oidc_issuer_cannot_speak_for_a_spiffe_id(room: Room) -> None:
    token = room.oidc_token(sub="spiffe://test.example/agent/support")
    await refused(room, "to an agent", bearer=token)
    exp = int(room.clock().timestamp()) + 60
    no_iss = room.signer.sign({"sub": str(room.support.spiffe_id), "aud": "remit", "exp": exp})
    await refused(room, "no key that signed", bearer=no_iss)


@pytest.mark.parametrize("bearer", ["", "x", "a.b.c", "é" * 30, "a" * 100_000])
async def test_garbage_is_refused(room: Room, bearer: str) -> None:
    await refused(room, "token", bearer=bearer)


async def test_nothing_presented_is_refused(room: Room) -> None:
    await refused(room, "no identity was presented")


async def test_an_svid_for_another_audience_is_refused_and_stays_refused(room: Room) -> None:
    token = room.svid("payments")
    await refused(room, "another audience", bearer=token)
    await refused(room, "another audience", bearer=token)
    assert await room.identity.identify(Claim(bearer=token, audience="payments"))
    await refused(room, "another audience", bearer=token)


@pytest.mark.parametrize("verb", ["suspend", "retire"])
async def test_a_suspended_or_retired_agent_is_refused_at_once(room: Room, verb: str) -> None:
    token = room.svid()
    chain = room.authority.issue_x509_svid(room.support.spiffe_id).certificates[0]
    assert await room.identity.identify(Claim(bearer=token))
    assert await room.identity.identify(Claim(certificate=chain))
    await getattr(room.registry, verb)("support", "user:op")
    await refused(room, "agent `support` is", bearer=token)
    await refused(room, "agent `support` is", certificate=chain)


async def test_a_suspended_agent_is_refused_by_its_oidc_token_too(room: Room) -> None:
    token = room.oidc_token(sub="ci")
    assert await room.identity.identify(Claim(bearer=token))
    await room.registry.suspend("ci", "user:op")
    await refused(room, "`ci` is suspended", bearer=token)


async def test_a_task_token_is_not_an_identity(room: Room) -> None:
    exp = int(room.clock().timestamp()) + 60
    claims = {"sub": str(room.support.spiffe_id), "aud": "remit", "exp": exp}
    await refused(room, "type", bearer=room.authority.sign(claims, typ="remit-task+jwt"))


async def test_a_bound_token_wants_the_certificate_it_is_bound_to(room: Room) -> None:
    chain = room.authority.issue_x509_svid(room.support.spiffe_id).certificates[0]
    other = room.authority.issue_x509_svid(room.support.spiffe_id).certificates[0]
    cnf = {"x5t#S256": base64url(hashlib.sha256(chain).digest())}
    for token in (room.oidc_token(sub="ci", cnf=cnf), room.svid(extra={"cnf": cnf})):
        assert await room.identity.identify(Claim(bearer=token, certificate=chain))
        await refused(room, "none was presented", bearer=token)
        await refused(room, "another certificate", bearer=token, certificate=other)
        await refused(room, "chain", bearer=token, certificate=b"junk")
    for strange in ({"jkt": 1}, {}, None, [], {**cnf, "jkt": "abc"}, {"x5t#S256": 1}):
        token = room.oidc_token(sub="ci", cnf=strange)
        await refused(room, "cannot check", bearer=token, certificate=chain)


async def test_a_person_is_known_by_a_token_of_a_configured_issuer(room: Room) -> None:
    person = await room.identity.person(room.oidc_token(sub="ann"))
    assert (person.id, person.method, person.roles) == ("user:ann", "oidc", ("operator",))
    for token, match in (
        (room.oidc_token(sub="ci"), "to a person"),
        (room.svid(), "not from an issuer"),
        (room.oidc_token(sub="ann", iss="https://evil.example"), "not from an issuer"),
        (room.oidc_token(sub="ann", aud="other"), "another audience"),
        (room.oidc_token(sub="ann", cnf={"jkt": "x"}), "bound to a key: send a proof"),
        ("junk", "not a signed JWT"),
    ):
        with pytest.raises(UnidentifiedError, match=match):
            await room.identity.person(token)


async def test_without_issuers_no_token_is_a_person(room: Room) -> None:
    alone = Identity(room.registry, room.identity._svids)
    with pytest.raises(UnidentifiedError, match="not from an issuer"):
        await alone.person(room.oidc_token(sub="ann"))
    with pytest.raises(UnidentifiedError, match="neither a JWT-SVID nor"):
        await alone.identify(Claim(bearer=room.oidc_token(sub="ci")))
