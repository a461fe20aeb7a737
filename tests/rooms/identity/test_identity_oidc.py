from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from remit.identity.oidc import Issuer, Oidc, Rule
from remit.model.errors import ConfigError, UnidentifiedError
from remit.testing.identity import ForeignSigner, ManualClock

Answer = Callable[[], Awaitable[web.StreamResponse]]
RULES = (
    Rule(claims={"sub": "repo:corp/site:ref:refs/heads/main"}, agent="deployer"),
    Rule(claims={"groups": "remit-operators"}, person="user:{email}", roles=("operator",)),
)


@dataclass
class LocalIssuer:
    """A real issuer on loopback, whose documents a test may spoil."""

    clock: ManualClock = field(default_factory=ManualClock)
    signers: list[ForeignSigner] = field(default_factory=lambda: [ForeignSigner("one")])
    asked: list[str] = field(default_factory=list)
    url: str = ""
    discovery: dict[str, Any] = field(default_factory=dict)
    spoiled: dict[str, Answer] = field(default_factory=dict)
    extra_keys: list[Any] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        if request.path in self.spoiled:
            return await self.spoiled[request.path]()
        if request.path == "/jwks":
            keys = [signer.jwk(use="sig") for signer in self.signers]
            return web.json_response({"keys": [*keys, *self.extra_keys]})
        return web.json_response(
            {"issuer": self.url, "jwks_uri": f"{self.url}/jwks", **self.discovery}
        )

    def token(self, signer: ForeignSigner | None = None, **changes: Any) -> str:
        now = int(self.clock().timestamp())
        header = changes.pop("header", {})
        good = {
            "iss": self.url,
            "sub": "repo:corp/site:ref:refs/heads/main",
            "aud": "remit",
            "iat": now,
            "exp": now + 60,
        }
        claims = {n: v for n, v in {**good, **changes}.items() if v is not ...}
        return (signer or self.signers[0]).sign(claims, **header)


@pytest.fixture
async def issuer() -> AsyncIterator[LocalIssuer]:
    local = LocalIssuer()
    app = web.Application()
    app.router.add_get("/{path:.*}", local.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    local.url = f"http://{host}:{port}"
    yield local
    await runner.cleanup()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as one:
        yield one


@pytest.fixture
def oidc(issuer: LocalIssuer, session: aiohttp.ClientSession) -> Oidc:
    configured = Issuer(issuer=issuer.url, audience="remit", rules=RULES)
    return Oidc([configured], session, clock=issuer.clock)


async def test_a_token_is_mapped_to_an_agent_and_its_keys_are_fetched_once(
    issuer: LocalIssuer, oidc: Oidc
) -> None:
    first = await oidc.verify(issuer.token())
    assert (first.agent, first.person, first.roles) == ("deployer", None, ())
    assert (await oidc.verify(issuer.token(jti="2"))).agent == "deployer"
    assert issuer.asked == ["/.well-known/openid-configuration", "/jwks"]


async def test_a_token_is_mapped_to_a_person_with_roles(issuer: LocalIssuer, oidc: Oidc) -> None:
    mapped = await oidc.verify(
        issuer.token(sub="u1", groups=["x", "remit-operators"], email="ann@corp.example")
    )
    assert (mapped.agent, mapped.person) == (None, "user:ann@corp.example")
    assert mapped.roles == ("operator",)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sub": "repo:corp/site:ref:refs/heads/other"}, "no rule"),
        ({"sub": "u1", "groups": "remit-operators-x"}, "no rule"),
        ({"sub": "u1", "groups": ["remit-operators"]}, "no usable claim `email`"),
        ({"sub": "u1", "groups": ["remit-operators"], "email": ["a"]}, "no usable claim"),
        ({"sub": "u1", "groups": ["remit-operators"], "email": "a b"}, "no usable claim"),
        ({"sub": "u1", "groups": ["remit-operators"], "email": "a\nb"}, "no usable claim"),
        (
            {"sub": "u", "groups": ["remit-operators"], "email": "a", "email_verified": False},
            "not verified",
        ),
        ({"sub": ...}, "no subject"),
        ({"sub": 7}, "no subject"),
        ({"aud": "other"}, "another audience"),
        ({"aud": ...}, "no audience"),
        ({"exp": ...}, "does not expire"),
        ({"exp": 1}, "expired"),
        ({"nbf": 2**34}, "not valid yet"),
        ({"iat": 2**34}, "not valid yet"),
        ({"iss": "https://evil.example"}, "not from an issuer"),
        ({"iss": ...}, "not from an issuer"),
        ({"iss": ["a"]}, "not from an issuer"),
        ({"header": {"alg": "none"}}, "algorithm `none`"),
        ({"header": {"alg": "HS256"}}, "algorithm `HS256`"),
        ({"header": {"alg": "ES512"}}, "may not use the algorithm"),
        ({"header": {"alg": "RS256"}}, "does not fit the key"),
        ({"header": {"typ": "dpop+jwt"}}, "type is not that"),
        ({"header": {"typ": "logout+jwt"}}, "type is not that"),
        ({"header": {"typ": "remit-task+jwt"}}, "type is not that"),
        ({"header": {"kid": "other"}}, "no key that signed"),
    ],
)
async def test_a_token_that_is_wrong_or_unmapped_is_refused(
    issuer: LocalIssuer, oidc: Oidc, changes: dict[str, Any], match: str
) -> None:
    token = issuer.token(**changes)
    with pytest.raises(UnidentifiedError, match=match) as caught:
        await oidc.verify(token)
    assert token not in str(caught.value)


async def test_what_needs_no_key_to_be_refused_causes_no_request(
    issuer: LocalIssuer, oidc: Oidc
) -> None:
    for changes in ({"aud": "other"}, {"exp": 1}, {"header": {"alg": "none"}}, {"sub": ""}):
        with pytest.raises(UnidentifiedError):
            await oidc.verify(issuer.token(**changes))
    assert issuer.asked == []


async def test_a_forged_signature_is_refused(issuer: LocalIssuer, oidc: Oidc) -> None:
    with pytest.raises(UnidentifiedError, match="signature does not hold"):
        await oidc.verify(issuer.token(ForeignSigner("one")))


async def test_a_new_key_is_fetched_and_made_up_ids_do_not_hammer_the_issuer(
    issuer: LocalIssuer, oidc: Oidc
) -> None:
    assert await oidc.verify(issuer.token())
    for number in range(20):
        with pytest.raises(UnidentifiedError, match="no key that signed"):
            await oidc.verify(issuer.token(header={"kid": f"made-up-{number}"}))
    assert issuer.asked.count("/jwks") == 1
    new = ForeignSigner("two")
    issuer.signers.append(new)
    issuer.clock.move(31)
    assert await oidc.verify(issuer.token(new))
    assert issuer.asked.count("/jwks") == 2


async def test_a_key_that_the_issuer_withdrew_stops_counting_cached_or_not(
    issuer: LocalIssuer, oidc: Oidc
) -> None:
    token = issuer.token(exp=2**33)
    assert await oidc.verify(token)
    issuer.signers = [ForeignSigner("two")]
    issuer.clock.move(3600)
    with pytest.raises(UnidentifiedError, match="no key that signed"):
        await oidc.verify(token)


async def test_the_last_good_keys_serve_while_the_issuer_is_down_but_not_for_ever(
    issuer: LocalIssuer, oidc: Oidc
) -> None:
    async def down() -> web.StreamResponse:
        return web.Response(status=500)

    token = issuer.token(exp=2**33)
    assert await oidc.verify(token)
    issuer.spoiled["/jwks"] = down
    issuer.clock.move(3600)
    assert await oidc.verify(token)
    issuer.clock.move(86_400)
    with pytest.raises(UnidentifiedError, match=r"cannot be had: .*status 500"):
        await oidc.verify(token)


async def _redirect() -> web.StreamResponse:
    return web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"})


async def _huge() -> web.StreamResponse:
    return web.Response(body=b" " * (300 * 1024))


async def _junk() -> web.StreamResponse:
    return web.Response(body=b'{"keys": [], "keys": []}')


async def _no_list() -> web.StreamResponse:
    return web.json_response({"keys": {"kty": "EC"}})


async def _too_many() -> web.StreamResponse:
    return web.json_response({"keys": [{}] * 100})


@pytest.mark.parametrize("spoil", [_redirect, _huge, _junk, _no_list, _too_many])
@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/jwks"])
async def test_documents_that_are_wrong_are_refused(
    issuer: LocalIssuer, oidc: Oidc, path: str, spoil: Answer
) -> None:
    issuer.spoiled[path] = spoil
    with pytest.raises(UnidentifiedError, match="cannot be had"):
        await oidc.verify(issuer.token())


@pytest.mark.parametrize(
    "discovery",
    [
        {"issuer": "http://127.0.0.1:1"},
        {"issuer": None},
        {"jwks_uri": None},
        {"jwks_uri": "http://example.com/jwks"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "https://user:secret@example.com/jwks"},
    ],
)
async def test_a_discovery_document_that_points_elsewhere_is_refused(
    issuer: LocalIssuer, oidc: Oidc, discovery: dict[str, Any]
) -> None:
    issuer.discovery = discovery
    with pytest.raises(UnidentifiedError, match="cannot be had"):
        await oidc.verify(issuer.token())
    assert issuer.asked == ["/.well-known/openid-configuration"]


async def test_keys_of_other_kinds_are_passed_over_and_a_doubled_id_spoils_the_set(
    issuer: LocalIssuer, oidc: Oidc
) -> None:
    issuer.extra_keys = [{"kty": "OKP", "kid": "x"}, {"kty": "oct", "k": "AA", "kid": "y"}, 7, {}]
    assert await oidc.verify(issuer.token())
    issuer.extra_keys = [ForeignSigner("one").jwk(use="sig")]
    issuer.clock.move(90_000)
    with pytest.raises(UnidentifiedError, match=r"cannot be had: .*twice"):
        await oidc.verify(issuer.token())


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "http://issuer.example"},
        {"issuer": "file:///etc"},
        {"issuer": "https://user@issuer.example"},
        {"issuer": "https://"},
        {"audience": ""},
        {"algorithms": frozenset({"HS256"})},
        {"algorithms": frozenset()},
        {"rules": (Rule(claims={}, agent="a"),)},
        {"rules": (Rule(claims={"sub": "a"}),)},
        {"rules": (Rule(claims={"sub": "a"}, agent="a", person="b"),)},
        {"rules": (Rule(claims={"sub": "a"}, person="{"),)},
        {"rules": (Rule(claims={"sub": "a"}, person="{email!r}"),)},
        {"rules": (Rule(claims={"sub": "a"}, person="{email:>9999999}"),)},
        {"rules": (Rule(claims={"sub": "a"}, person="{}"),)},
    ],
)
async def test_an_issuer_that_is_configured_wrongly_is_refused(
    session: aiohttp.ClientSession, changes: dict[str, Any]
) -> None:
    fields = {"issuer": "https://issuer.example", "audience": "remit", "rules": RULES}
    with pytest.raises(ConfigError):
        Oidc([Issuer(**{**fields, **changes})], session, clock=ManualClock())


async def test_an_issuer_that_is_there_twice_is_refused(session: aiohttp.ClientSession) -> None:
    one = Issuer(issuer="https://issuer.example", audience="remit", rules=RULES)
    with pytest.raises(ConfigError, match="twice"):
        Oidc([one, one], session, clock=ManualClock())
