"""The broker `oauth`: its options and grants, its key, and authorization servers that misbehave."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from aiohttp import web

from remit.credentials.brokers.oauth.broker import OAuthBroker
from remit.credentials.brokers.oauth.key import ClientKey
from remit.credentials.port import Surroundings
from remit.identity.access_tokens import IssuerSigner
from remit.identity.bundle import Bundle
from remit.identity.trust_domain import TrustDomain
from remit.identity.validation import SvidValidator
from remit.model.errors import (
    BrokerError,
    ConfigError,
    InputError,
    NotMintedError,
    UnidentifiedError,
)
from remit.model.lease import LeaseState
from remit.testing.broker_suite import Lab

INSTALLATION = "remit-0a1b2c3d"
ISSUER = "https://remit.example"
TOKEN = "the-token-itself-" + "x" * 20
Answer = tuple[int, Any, dict[str, str]]


@dataclass
class Fake:
    """An authorization server that keeps what it was sent and answers what it is told to."""

    url: str = ""
    sent: list[tuple[str, list[tuple[str, str]], Mapping[str, str]]] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Callable[[], Answer | Awaitable[Answer]]] = field(default_factory=dict)
    alive: set[str] = field(default_factory=set)
    token: dict[str, Any] = field(default_factory=dict)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path.startswith("/.well-known/"):
            if "metadata" in self.answers:
                return await self._told("metadata")
            return web.json_response(self.metadata)
        form = [(name, str(value)) for name, value in (await request.post()).items()]
        self.sent.append((path, form, dict(request.headers)))
        if path in self.answers:
            return await self._told(path)
        token = dict(form).get("token", "")
        if path == "/introspect":
            return web.json_response({"active": token in self.alive})
        if path == "/revoke":
            self.alive.discard(token)
            return web.Response()
        self.alive.add(TOKEN)
        return web.json_response(
            {"access_token": TOKEN, "token_type": "Bearer", "expires_in": 60, **self.token}
        )

    async def _told(self, what: str) -> web.Response:
        found = self.answers[what]()
        status, body, headers = found if isinstance(found, tuple) else await found
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return web.Response(status=status, body=data, headers=headers)

    def form(self, path: str = "/token") -> dict[str, str]:
        """Return the last form that was sent there."""
        return dict(next(form for at, form, _ in reversed(self.sent) if at == path))


@pytest.fixture
async def fake() -> AsyncIterator[Fake]:
    made = Fake()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    made.url = f"http://{host}:{port}"
    made.metadata = {
        "issuer": made.url,
        "token_endpoint": f"{made.url}/token",
        "revocation_endpoint": f"{made.url}/revoke",
        "introspection_endpoint": f"{made.url}/introspect",
    }
    yield made
    await runner.cleanup()


class Seat:
    installation = INSTALLATION
    names_are_ours = False
    grant: Mapping[str, Any] = {}

    def __init__(self, folder: Path, fake: Fake, http: aiohttp.ClientSession) -> None:
        self.folder, self.fake, self.http = folder, fake, http
        self.ahead = timedelta()
        self.domain = TrustDomain.open(folder / "keys", "oauth.example", clock=self.clock)
        self.broker = self.another()

    def clock(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def another(self, **options: Any) -> OAuthBroker:
        surroundings = Surroundings(
            http=self.http,
            clock=self.clock,
            signer=IssuerSigner(self.domain, ISSUER),
            installation=INSTALLATION,
            state=self.folder,
            path=lambda text: self.folder / text,
        )
        given = {"issuer": self.fake.url, "client_id": "remit", "timeout_seconds": 0.5}
        return OAuthBroker("as", {**given, **options}, surroundings)

    async def accepts(self, credential: Any) -> bool:
        raise NotImplementedError

    up = down = expire = accepts


@pytest.fixture
async def seat(tmp_path: Path, fake: Fake) -> AsyncIterator[Seat]:
    async with aiohttp.ClientSession(trust_env=False) as http:
        yield Seat(tmp_path, fake, http)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"issuer": "http://as.example"}, "https"),
        ({"issuer": "ftp://127.0.0.1"}, "https"),
        ({"issuer": "https://user:pw@as.example"}, "https"),
        ({"issuer": "https://as.example#x"}, "https"),
        ({"issuer": "https://as.example?x=1"}, "query"),
        ({"issuer": "https://[::1"}, "https"),
        ({"issuer": ""}, "https"),
        ({"client_id": " "}, "client_id"),
        ({"client_id": "a\nb"}, "client_id"),
        ({"client_secret": "s3cret"}, "client_secret"),
        ({"grant": "password"}, "grant"),
        ({"grant": "token_exchange", "parameters": {"subject_token": "x"}}, "subject_token"),
        ({"parameters": {"client_assertion": "x"}}, "client_assertion"),
        ({"parameters": {"scope": "admin"}}, "scope"),
        ({"subject_claims": {"sub": "user:root"}}, "sub"),
        ({"actor_token": True}, "token_exchange"),
        ({"requested_token_type": "x"}, "token_exchange"),
        ({"client_auth": "federated", "key_file": "k"}, "key_file"),
        ({"client_auth": "spiffe", "key_file": "k"}, "key_file"),
        ({"client_auth": "svid"}, "svid"),
        ({"alg": "none"}, "alg"),
        ({"alg": "HS256"}, "alg"),
        ({"longest_seconds": 0}, "longest_seconds"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": 3600}, "timeout_seconds"),
        ({"ca_file": "nowhere.pem"}, "ca_file"),
    ],
)
async def test_an_option_that_makes_no_sense_is_named_with_its_table(
    seat: Seat, options: dict[str, Any], said: str
):
    with pytest.raises(ConfigError) as raised:
        seat.another(**options)
    assert "[broker.as]" in str(raised.value)
    assert said in str(raised.value)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    ("grant", "said"),
    [
        ({"scope": ["read:88 admin"]}, "is not one scope"),
        ({"scope": [""]}, "is not one scope"),
        ({"scope": ["a\u00a0b"]}, "is not one scope"),
        ({"scope": [7]}, "scope"),
        ({"audience": [""]}, "audience"),
        ({"audience": "a\r\nb"}, "audience"),
        ({"audience": "x" * 5000}, "audience"),
        ({"resource": "crm.example"}, "resource"),
        ({"resource": ["https://crm.example/#x"]}, "resource"),
        ({"resource": ["https://crm.example/a b"]}, "resource"),
        ({"resource": ["https://crm.\u00e9xample"]}, "resource"),
        ({"authorization_details": [{"actions": ["read"]}]}, "type"),
        ({"authorization_details": [{"type": "x", "y": "z" * 9000}]}, "too long"),
        ({"client_id": "other"}, "client_id"),
    ],
)
async def test_what_an_argument_brought_along_mints_nothing(
    seat: Seat, fake: Fake, grant: dict[str, Any], said: str
):
    with pytest.raises(NotMintedError, match=said):
        await seat.broker.issue(Lab(seat).order(grant=grant))
    assert not fake.sent


async def test_a_text_of_scopes_with_a_reference_wants_a_list(seat: Seat):
    with pytest.raises(ConfigError, match="has to be a list"):
        seat.broker.check({"scope": "read:{args.id}"})
    seat.broker.check({"scope": ["read:{args.id}"]})


async def test_an_argument_stays_inside_its_field(seat: Seat, fake: Fake):
    grant = {"audience": ["a&scope=admin&client_id=evil"], "resource": ["https://x/?a=b&c=d"]}
    await seat.broker.issue(Lab(seat).order(grant=grant))
    form = fake.form()
    assert form["audience"] == "a&scope=admin&client_id=evil"
    assert form["client_id"] == "remit"
    assert "scope" not in form


async def test_the_client_shows_itself_for_this_server_alone_and_once(seat: Seat, fake: Fake):
    for _ in range(2):
        await seat.broker.issue(Lab(seat).order())
    key = ClientKey(seat.folder / "brokers/as/client.key", "ES256")
    public = jwt.PyJWK(key.public)
    seen = [
        jwt.decode(dict(form)["client_assertion"], public, ["ES256"], audience=fake.url)
        for _, form, _ in fake.sent
    ]
    assert len({each["jti"] for each in seen}) == len(seen) == 4, "two tokens, two questions"
    assert {(each["iss"], each["sub"], each["aud"]) for each in seen} == {
        ("remit", "remit", fake.url)
    }
    assert all(0 < each["exp"] - each["iat"] <= 60 for each in seen)


@pytest.mark.parametrize("alg", ["ES256", "RS256", "PS256"])
async def test_a_key_is_made_once_for_the_owner_alone_and_its_public_half_lies_beside_it(
    tmp_path: Path, alg: str
):
    file = tmp_path / "b" / "client.key"
    made, again = ClientKey(file, alg), ClientKey(file, alg)
    assert made.kid == again.kid
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    [published] = json.loads(made.published.read_text())["keys"]
    assert published == made.public
    assert not {"d", "p", "q", "dp", "dq", "qi"} & published.keys()
    token = made.sign({"sub": "x"})
    assert jwt.decode(token, jwt.PyJWK(published), [alg]) == {"sub": "x"}
    assert "PRIVATE" not in repr(made)


async def test_a_key_that_others_read_or_that_is_none_is_refused(seat: Seat):
    file = seat.folder / "own.key"
    ClientKey(file, "ES256")
    with pytest.raises(ConfigError, match="none for `RS256`"):
        seat.another(key_file="own.key", alg="RS256")
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        seat.another(key_file="own.key")
    file.unlink()
    file.touch(mode=0o600)
    file.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(ConfigError, match=r"\[broker.as\].*none for"):
        seat.another(key_file="own.key")
    file.unlink()
    file.symlink_to(seat.folder / "brokers/as/client.key")
    with pytest.raises(ConfigError, match="cannot be used"):
        seat.another(key_file="own.key")


async def test_an_exchange_says_who_acts_for_whom_and_is_for_this_server(seat: Seat, fake: Fake):
    broker = seat.another(
        grant="token_exchange",
        actor_token=True,
        requested_token_type="urn:ietf:params:oauth:token-type:access_token",
        parameters={"subject_issuer": "remit"},
        subject_claims={"typ": "Bearer"},
    )
    order = Lab(seat).order()
    await broker.issue(order)
    form = fake.form()
    assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:token-exchange"
    assert form["subject_issuer"] == "remit"
    subject = seat.domain.verify(form["subject_token"], typ="JWT")
    assert (subject["iss"], subject["sub"], subject["aud"], subject["act"]) == (
        ISSUER, "user:ada@corp.example", fake.url, {"sub": order.workload},
    )  # fmt: skip
    assert subject["task"] == order.lease.task
    actor = seat.domain.verify(form["actor_token"], typ="JWT")
    assert (actor["sub"], "act" in actor) == (order.workload, False)


async def test_a_federated_client_needs_no_key_of_its_own(seat: Seat, fake: Fake):
    broker = seat.another(client_auth="federated", assertion_audience="api://exchange")
    await broker.issue(Lab(seat).order())
    claims = seat.domain.verify(fake.form()["client_assertion"], typ="JWT")
    assert (claims["iss"], claims["sub"], claims["aud"]) == (ISSUER, "remit", "api://exchange")


class Own:
    """The bundle of the trust domain itself, and of no other."""

    def __init__(self, domain: TrustDomain) -> None:
        self.domain = domain

    def bundle_of(self, trust_domain: str) -> Bundle | None:
        return self.domain.parsed_bundle() if trust_domain == self.domain.name else None


async def test_an_svid_of_the_brokers_own_shows_who_asks(seat: Seat, fake: Fake):
    broker = seat.another(client_auth="spiffe")
    order = Lab(seat).order()
    await broker.issue(order)
    shown = [form for _, form, _ in fake.sent if form]
    assert len(shown) == 2, "for the token, and for the question about it"
    seen = set()
    for form in map(dict, shown):
        assert form["client_id"] == "remit"
        assert form["client_assertion_type"] == (
            "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"
        )
        svid = form["client_assertion"]
        verified = SvidValidator(Own(seat.domain), clock=seat.clock).jwt(svid, fake.url)
        assert str(verified.spiffe_id) == "spiffe://oauth.example/broker/as"
        assert verified.expires_at <= seat.clock() + timedelta(seconds=60)
        with pytest.raises(UnidentifiedError):
            seat.domain.verify(
                svid, typ="JWT"
            )  # under other keys than what remit signs as an issuer
        seen.add(svid)
    assert len(seen) == 2, "each is used once"


def test_no_part_of_the_house_gets_an_agents_identity(seat: Seat):
    signer = IssuerSigner(seat.domain, ISSUER)
    for path in ("/agent/helper", "", "/", "/broker", "/broker/", "/broker/../agent/helper"):
        with pytest.raises(InputError):
            signer.sign_svid(path, "https://x.example", seconds=60, jti="1")


async def test_a_nonce_that_the_server_wants_is_proved_once_more(seat: Seat, fake: Fake):
    broker = seat.another(bound="dpop")
    fake.token = {"token_type": "DPoP"}
    wanted = iter([(400, {"error": "use_dpop_nonce"}, {"DPoP-Nonce": "n-1"})])

    def token() -> Answer:
        return next(
            wanted, (200, {"access_token": TOKEN, "token_type": "DPoP", "expires_in": 9}, {})
        )

    fake.answers["/token"] = token
    fake.alive.add(TOKEN)
    credential = await broker.issue(Lab(seat).order())
    assert credential.prove is not None
    proofs = [headers["DPoP"] for path, _, headers in fake.sent if path == "/token"]
    keys = [jwt.PyJWK(jwt.get_unverified_header(each)["jwk"]) for each in proofs]
    first, second = (
        jwt.decode(each, key, ["ES256"]) for each, key in zip(proofs, keys, strict=True)
    )
    assert ("nonce" in first, second["nonce"]) == (False, "n-1")
    assert first["jti"] != second["jti"]
    assertions = {dict(form)["client_assertion"] for path, form, _ in fake.sent if path == "/token"}
    assert len(assertions) == 2, "an assertion is good once"


async def test_a_server_that_always_wants_another_nonce_is_left(seat: Seat, fake: Fake):
    fake.answers["/token"] = lambda: (400, {"error": "use_dpop_nonce"}, {"DPoP-Nonce": "again"})
    with pytest.raises(NotMintedError, match="use_dpop_nonce"):
        await seat.another(bound="dpop").issue(Lab(seat).order())
    assert len([path for path, _, _ in fake.sent if path == "/token"]) == 2


@pytest.mark.parametrize(
    ("answer", "minted"),
    [
        ((400, {"error": "invalid_scope", "error_description": "SECRET"}, {}), False),
        ((401, {"error": "invalid_client"}, {}), False),
        ((400, {"error": "SECRET\nSECRET " * 9}, {}), True),
        ((400, b"SECRET", {}), True),
        ((302, b"", {"Location": "/elsewhere"}), True),
        ((500, {"error": "server_error"}, {}), True),
        ((503, b"SECRET", {}), True),
        ((200, b"SECRET", {}), True),
        ((200, b"[" * 100_000, {}), True),
        ((200, b'{"access_token": "' + b"x" * 300_000 + b'"}', {}), True),
        ((200, {"token_type": "Bearer"}, {}), True),
        ((200, {"access_token": 7, "token_type": "Bearer"}, {}), True),
        ((200, {"access_token": "a\r\nX: y", "token_type": "Bearer"}, {}), True),
        ((200, {"access_token": "\u00e9" * 9, "token_type": "Bearer"}, {}), True),
    ],
)
async def test_what_the_server_answered_says_whether_something_may_live(
    seat: Seat, fake: Fake, answer: Answer, minted: bool
):
    fake.answers["/token"] = lambda: answer
    order = Lab(seat).order()
    with pytest.raises(BrokerError) as raised:
        await seat.broker.issue(order)
    assert isinstance(raised.value, NotMintedError) is not minted
    assert "SECRET" not in str(raised.value)
    assert "/elsewhere" not in [path for path, _, _ in fake.sent]
    after = await seat.broker.revoke(order.lease.moved(LeaseState.SETTLING), None)
    assert (after.until is not None) is minted
    assert after.confirmed is not minted
    seat.ahead = timedelta(seconds=3600 + 61)
    over = await seat.broker.revoke(order.lease.moved(LeaseState.SETTLING), None)
    assert over.until is None


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ({"token_type": "DPoP"}, "no `bearer` token"),
        ({"token_type": "mac"}, "no `bearer` token"),
        ({"expires_in": 7200}, "longest_seconds"),
        ({"expires_in": -1}, "no time"),
        ({"expires_in": True}, "no time"),
        ({"expires_in": "soon"}, "no time"),
    ],
)
async def test_a_token_that_is_not_what_was_asked_for_is_revoked(
    seat: Seat, fake: Fake, token: dict[str, Any], said: str
):
    fake.token = token
    with pytest.raises(BrokerError, match=said):
        await seat.broker.issue(Lab(seat).order())
    assert TOKEN not in fake.alive


async def test_a_refresh_token_is_revoked_too_and_shown_nowhere(seat: Seat, fake: Fake):
    fake.token = {"refresh_token": "the-refresh-token"}
    order = Lab(seat).order()
    credential = await seat.broker.issue(order)
    assert "the-refresh-token" not in str(credential.values)
    assert "the-refresh-token" not in repr(credential)
    assert (await seat.broker.revoke(order.lease, credential.keep)).confirmed
    hints = [
        (dict(form)["token"], dict(form)["token_type_hint"])
        for path, form, _ in fake.sent
        if path == "/revoke"
    ]
    assert hints == [("the-refresh-token", "refresh_token"), (TOKEN, "access_token")]


async def test_a_server_that_revokes_in_words_alone_is_not_believed(seat: Seat, fake: Fake):
    order = Lab(seat).order()
    credential = await seat.broker.issue(order)
    fake.answers["/revoke"] = lambda: (200, b"", {})
    with pytest.raises(BrokerError, match="active still"):
        await seat.broker.revoke(order.lease, credential.keep)
    for answer in ((200, b"", {}), (200, {"active": "false"}, {}), (401, {"error": "x"}, {})):
        fake.answers["/introspect"] = lambda answer=answer: answer
        with pytest.raises(BrokerError):
            await seat.broker.revoke(order.lease, credential.keep)
    del fake.answers["/revoke"], fake.answers["/introspect"]
    assert (await seat.broker.revoke(order.lease, credential.keep)).confirmed


@pytest.mark.parametrize(
    "changed",
    [
        {"issuer": "https://evil.example"},
        {"issuer": None},
        {"token_endpoint": None},
        {"token_endpoint": "http://evil.example/token"},
        {"token_endpoint": ["x"]},
        {"revocation_endpoint": None},
        {"introspection_endpoint": None},
        {"introspection_endpoint": "file:///etc/passwd"},
    ],
)
async def test_metadata_that_is_not_this_issuers_or_lacks_something_mints_nothing(
    seat: Seat, fake: Fake, changed: dict[str, Any]
):
    fake.metadata |= changed
    with pytest.raises(NotMintedError):
        await seat.broker.issue(Lab(seat).order())
    assert not fake.sent, "nothing was sent anywhere"


async def test_metadata_is_not_fetched_from_where_it_redirects_to(seat: Seat, fake: Fake):
    fake.answers["metadata"] = lambda: (302, b"", {"Location": f"{fake.url}/token"})
    with pytest.raises(NotMintedError):
        await seat.broker.issue(Lab(seat).order())
    assert not fake.sent


async def test_a_server_that_hangs_is_given_up_and_owned_up_to(seat: Seat, fake: Fake):
    release = asyncio.Event()

    async def hang() -> Answer:
        await release.wait()
        return 200, {}, {}

    fake.answers["/token"] = hang
    order = Lab(seat).order()
    with pytest.raises(BrokerError, match=r"did not answer within 0\.5") as raised:
        await seat.broker.issue(order)
    assert not isinstance(raised.value, NotMintedError)
    assert (await seat.broker.revoke(order.lease.moved(LeaseState.SETTLING), None)).until
    release.set()


async def test_a_revocation_does_not_wait_for_metadata_that_is_out_of_date(seat: Seat, fake: Fake):
    broker = seat.another(longest_seconds=86_400)
    fake.token = {"expires_in": 86_000}
    order = Lab(seat).order()
    credential = await broker.issue(order)
    seat.ahead = timedelta(hours=2)
    fake.answers["metadata"] = lambda: (500, b"", {})
    with pytest.raises(NotMintedError):
        await broker.issue(Lab(seat).order())
    assert (await broker.revoke(order.lease, credential.keep)).confirmed
    assert TOKEN not in fake.alive
