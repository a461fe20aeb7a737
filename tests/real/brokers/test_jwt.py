"""The broker `jwt` at a real resource server: another process, another library, a real authority."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import ssl
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from nginx import server_certificate
from processes import ROOT, free_port, python, running

from remit.app.compose import House
from remit.app.config import load
from remit.app.control import rotate
from remit.app.serve import serving
from remit.closing import close_task
from remit.credentials.brokers.jwt.broker import JwtBroker
from remit.credentials.port import Order, Surroundings
from remit.identity.access_tokens import IssuerSigner
from remit.model.call import CALL_TOOL, Call
from remit.model.decision import Decision
from remit.model.errors import MandateError
from remit.model.lease import Credential
from remit.model.outcome import Ending, Outcome
from remit.model.subject import Claim, Environment, SpiffeId
from remit.model.task import TaskState
from remit.policy.catalogue import Definition
from remit.proof.dpop import ProofKey
from remit.proof.encoding import canonical, digest
from remit.spine import perform
from remit.tasks.request import TaskRequest
from remit.testing.broker_suite import BrokerSuite, Lab

pytestmark = pytest.mark.real

INTROSPECTING = {"introspect", "mtls"}
SERVER = ROOT / "tests/support/resource_server.py"
AUDIENCE = "https://crm.example/api"
RESOURCE = "spiffe://tokens.example/agent/crm"
CONFIG = """\
[authority]
state = "s"
trust_domain = "tokens.example"
listen = "127.0.0.1:{port}"
[upstream.desk]
{upstream}
[upstream.desk.credential]
broker = "{mode}"
grant = {{ scope = ["read:{{args.id}}"] }}
{place}
[broker.offline]
kind = "jwt"
audience = "https://crm.example/api"
[broker.introspect]
kind = "jwt"
audience = "https://crm.example/api"
introspected = true
resources = ["spiffe://tokens.example/agent/crm"]
[broker.dpop]
kind = "jwt"
audience = "https://crm.example/api"
bound = "dpop"
[broker.mtls]
kind = "jwt"
audience = "https://crm.example/api"
bound = "mtls"
introspected = true
resources = ["spiffe://tokens.example/agent/crm"]
[policy]
templates = "templates"
"""
COMMAND = 'command = ["true"]'
PLACES = {
    "offline": (COMMAND, 'env = { TOKEN = "{token}" }'),
    "introspect": (COMMAND, 'env = { TOKEN = "{token}" }'),
    "dpop": (
        'url = "http://127.0.0.1:9/mcp"',
        'header = { Authorization = "DPoP {token}", DPoP = "{dpop}" }',
    ),
    "mtls": (COMMAND, 'env = { TOKEN = "{token}", CERTIFICATE = "{bundle}" }'),
}
TEMPLATE = """\
purpose = "Help"
budget = { calls = 3 }
[[capability]]
tool = "desk/read"
args = { id = { const = "88" } }
[[capability]]
tool = "crm/notes"
"""
SERVICE = """\
[service.crm]
url = "https://127.0.0.1:{port}"
private = true
ca_file = "server.crt"
[[service.crm.operation]]
name = "notes"
method = "GET"
path = "/notes"
[service.crm.credential]
broker = "mtls"
scope = "{scope}"
header = {{ Authorization = "Bearer {{token}}" }}
tls = "{{bundle}}"
"""


class Seat:
    """One authority, one resource server, and the broker between them."""

    names_are_ours = True

    def __init__(
        self, house: House, url: str, mode: str, session: aiohttp.ClientSession, own: Path
    ) -> None:
        self.house, self.url, self.session, self.own = house, url, session, own
        self.installation = "remit-0a1b2c3d"
        self.grant = {"scope": ["read", "write:notes"]}
        self.ahead = timedelta()
        configured = house.authority.leases.brokers[mode]
        assert isinstance(configured, JwtBroker)
        # Who introspects asks the authority, and with it the configured broker. Where nobody does,
        # one with a clock that can be moved stands for it, under the same keys.
        self.broker = configured if mode in INTROSPECTING else self._moving(mode)

    def identify(self) -> None:
        """Give the resource an identity: what it asks about tokens with."""
        resource = SpiffeId("tokens.example", "/agent/crm")
        self.own.write_text(self.house.trust_domain.issue_jwt_svid(resource, ["remit"]))

    def _moving(self, mode: str) -> JwtBroker:
        options = {"audience": AUDIENCE, "bound": "dpop" if mode == "dpop" else "none"}
        return JwtBroker(mode, options, self.surroundings())

    def surroundings(self) -> Surroundings:
        return Surroundings(
            http=self.session,
            clock=lambda: datetime.now(UTC) + self.ahead,
            signer=IssuerSigner(self.house.trust_domain, self.house.loaded.url),
            installation=self.installation,
            state=self.house.loaded.state,
            path=Path,
        )

    async def accepts(self, credential: Credential) -> bool:
        return (await self.ask(credential))[0] == 200

    async def ask(
        self,
        credential: Credential,
        proof: str | None = None,
        path: str = "/",
        shown: Credential | None = None,
    ) -> tuple[int, Any]:
        """Ask with a token, its proof, and the certificate of its own or another credential."""
        token, url = credential.values["token"], f"{self.url}{path}"
        headers = {"Authorization": f"Bearer {token}"}
        if credential.prove is not None:
            proof = proof or credential.prove("GET", url, token)
            headers = {"Authorization": f"DPoP {token}", "DPoP": proof}
        tls = self.connecting(shown or credential)
        async with self.session.get(url, headers=headers, ssl=tls) as answer:
            return answer.status, await answer.json(content_type=None)

    def connecting(self, shown: Credential) -> ssl.SSLContext:
        """Return what makes a connection, with a credential's certificate where it has one."""
        bundle, server = shown.values.get("bundle"), self.own.with_name("server.crt")
        context = ssl.create_default_context(cafile=server if server.exists() else None)
        if bundle is not None:
            with tempfile.NamedTemporaryFile("w", dir=self.own.parent) as both:
                both.write(bundle)
                both.flush()
                context.load_cert_chain(both.name)
        return context

    async def down(self) -> None:
        raise AssertionError("there is no target to be down")

    up = down

    async def expire(self, credential: Credential) -> None:
        self.ahead = timedelta(seconds=121)
        tls = self.connecting(credential)
        async with self.session.post(f"{self.url}/clock", data="121", ssl=tls) as answer:
            assert answer.status == 200


@contextlib.asynccontextmanager
async def seated(folder: Path, mode: str, *, scope: str = "call") -> AsyncIterator[Seat]:
    port, ours = free_port(), free_port()
    (folder / "templates").mkdir()
    (folder / "templates" / "help.toml").write_text(TEMPLATE)
    upstream, place = PLACES[mode]
    text = CONFIG.format(port=port, mode=mode, upstream=upstream, place=place)
    if mode == "mtls":
        server_certificate(folder)
        text += SERVICE.format(port=ours, scope=scope)
    (folder / "remit.toml").write_text(text)
    async with serving(load(folder / "remit.toml")) as house, aiohttp.ClientSession() as session:
        await house.authority.registry.register(
            "crm",
            by="user:ada",
            owner="user:ada",
            purpose="To ask about tokens",
            environment=Environment.DEV,
            autonomy=1,
            templates=(),
        )
        own = folder / "own.jwt"
        authority = house.loaded.state / "brokers/mtls.pem"
        files = [own, folder, authority] if mode == "mtls" else [own]
        command = python(SERVER, str(ours), house.loaded.url, AUDIENCE, mode, *files)
        # It looks for the issuer while this loop has to answer: nothing may wait for it here.
        with running(command, log=folder / "resource.log") as started:
            scheme = "https" if mode == "mtls" else "http"
            seat = Seat(house, f"{scheme}://127.0.0.1:{ours}", mode, session, own)
            seat.identify()
            await _answers(seat, started)
            yield seat


async def _answers(seat: Seat, started: Any) -> None:
    tls = seat.connecting(Credential())
    async with asyncio.timeout(30):
        while True:
            assert started.popen.poll() is None, started.said()
            with contextlib.suppress(aiohttp.ClientError):
                async with seat.session.get(f"{seat.url}/", ssl=tls):
                    return
            await asyncio.sleep(0.05)


class Suite(BrokerSuite):
    async def test_a_target_that_is_down_is_the_targets_fault_and_nothing_hangs(
        self, target: Seat
    ) -> None:
        """Nothing has to be reached: what holds instead is that no run answers for the last one's.

        A new broker is a new run: what was minted before it is refused wherever Remit is asked.
        """
        lease, credential = await Lab(target).issue()
        options = {"audience": AUDIENCE, "introspected": True}
        after = JwtBroker("after", options, target.surroundings())
        assert not after.active(lease.handle, RESOURCE)
        assert (await after.census([lease])).alive == frozenset()
        assert await target.accepts(credential)
        await Lab(target).ended(lease, credential)


class TestOffline(Suite):
    """The resource reads the token by itself: it can only run out."""

    @pytest.fixture
    async def target(self, tmp_path: Path) -> AsyncIterator[Seat]:
        async with seated(tmp_path, "offline") as seat:
            yield seat


class TestIntrospecting(Suite):
    """The resource asks about every token: it is over at once."""

    @pytest.fixture
    async def target(self, tmp_path: Path) -> AsyncIterator[Seat]:
        async with seated(tmp_path, "introspect") as seat:
            yield seat


class TestBound(Suite):
    """The resource wants a proof with every request."""

    @pytest.fixture
    async def target(self, tmp_path: Path) -> AsyncIterator[Seat]:
        async with seated(tmp_path, "dpop") as seat:
            yield seat


class TestCertified(Suite):
    """The resource wants the certificate that the token is bound to, and asks about the token."""

    @pytest.fixture
    async def target(self, tmp_path: Path) -> AsyncIterator[Seat]:
        async with seated(tmp_path, "mtls") as seat:
            yield seat


async def test_the_resource_learns_whose_token_it_is_and_for_which_call(tmp_path: Path):
    async with seated(tmp_path, "offline") as seat:
        order = Lab(seat).order(grant={"scope": ["read"], "claims": {"tenant": "acme"}})
        status, claims = await seat.ask(await seat.broker.issue(order))
        assert status == 200
        assert order.call is not None
        assert claims == {
            "iss": seat.house.loaded.url,
            "sub": "user:ada@corp.example",
            "act": {"sub": "spiffe://remit.test/agent/suite"},
            "client_id": "spiffe://remit.test/agent/suite",
            "aud": AUDIENCE,
            "scope": "read",
            "tenant": "acme",
            "task": order.lease.task,
            "jti": order.lease.handle,
            "iat": claims["iat"],
            "exp": int(order.lease.expires_at.timestamp()),
            "authorization_details": [
                {
                    "type": "dev.remit/call",
                    "locations": [AUDIENCE],
                    "actions": [CALL_TOOL],
                    "identifier": "suite/use",
                    "call_digest": order.call.digest,
                }
            ],
        }


async def test_a_bound_token_is_of_no_use_without_its_key(tmp_path: Path):
    async with seated(tmp_path, "dpop") as seat:
        _, credential = await Lab(seat).issue()
        token, url = credential.values["token"], f"{seat.url}/"
        assert credential.prove is not None
        stolen = replace(credential, prove=None)
        assert (await seat.ask(stolen))[0] == 401
        other = ProofKey.generate()
        assert (await seat.ask(replace(credential, prove=other.prove)))[0] == 401
        proof = credential.prove("GET", url, token)
        assert [(await seat.ask(credential, proof))[0] for _ in range(2)] == [200, 401], "once"
        elsewhere = credential.prove("GET", f"{url}other", token)
        assert (await seat.ask(credential, elsewhere))[0] == 401
        assert (await seat.ask(replace(credential, values={"token": token[:-4] + "AAAA"})))[
            0
        ] == 401


async def test_a_token_is_of_no_use_over_another_connection_than_its_certificates(tmp_path: Path):
    async with seated(tmp_path, "mtls") as seat:
        lab = Lab(seat)
        (lease, credential), (_, other) = await lab.issue(), await lab.issue()
        status, claims = await seat.ask(credential)
        made = x509.load_pem_x509_certificate(credential.values["certificate"].encode())
        digest = base64.urlsafe_b64encode(made.fingerprint(hashes.SHA256())).rstrip(b"=").decode()
        assert (status, claims["cnf"]) == (200, {"x5t#S256": digest})
        assert credential.memo == f"certificate {digest}"
        assert (await seat.ask(credential, shown=other))[0] == 401, "another lease's"
        assert (await seat.ask(credential, shown=Credential()))[0] == 401, "none"
        assert (await seat.ask(other))[0] == 200
        await lab.revoke(lease, credential)
        assert await seat.ask(credential) == (401, {"refused": "RefusedError: not active"})
        assert (await seat.ask(other))[0] == 200


async def test_a_certificate_of_another_authority_does_not_get_through_the_handshake(
    tmp_path: Path,
):
    async with seated(tmp_path, "mtls") as seat:
        _, credential = await Lab(seat).issue()
        options = {"audience": AUDIENCE, "bound": "mtls"}
        surroundings = replace(seat.surroundings(), state=tmp_path / "elsewhere")
        strange = await JwtBroker("mtls", options, surroundings).issue(Lab(seat).order())
        with pytest.raises(aiohttp.ClientError):
            await seat.ask(credential, shown=strange)
        with pytest.raises(aiohttp.ClientError):
            await seat.ask(strange)


async def test_a_second_leases_token_is_refused_over_the_first_leases_connection(tmp_path: Path):
    async with seated(tmp_path, "mtls") as seat:
        lab = Lab(seat)
        (_, first), (_, second) = await lab.issue(), await lab.issue()
        place = urlsplit(seat.url)
        assert place.hostname is not None

        def statuses() -> list[int]:
            connection = http.client.HTTPSConnection(
                place.hostname, place.port, timeout=10, context=seat.connecting(first)
            )
            with contextlib.closing(connection):
                found = []
                for each in (first, second, first):
                    bearer = {"Authorization": f"Bearer {each.values['token']}"}
                    connection.request("GET", "/", headers=bearer)
                    answer = connection.getresponse()
                    answer.read()
                    found.append(answer.status)
                    assert not answer.will_close, "the same connection goes on"
                return found

        assert await asyncio.to_thread(statuses) == [200, 401, 200]


@pytest.mark.parametrize("scope", ["call", "task"])
async def test_an_agents_request_goes_up_over_a_connection_of_its_lease_and_leaves_nothing(
    tmp_path: Path, scope: str, monkeypatch: pytest.MonkeyPatch
):
    """The whole way: decided, minted, shown in the handshake, bound, settled, refused."""
    async with seated(tmp_path, "mtls", scope=scope) as seat:
        authority, minted = seat.house.authority, list[Credential]()
        issue = seat.broker.issue

        async def issuing(order: Order) -> Credential:
            minted.append(await issue(order))
            return minted[-1]

        monkeypatch.setattr(seat.broker, "issue", issuing)
        agent = await authority.registry.register(
            "helper",
            by="user:ada",
            owner="user:ada",
            purpose="Help",
            environment=Environment.DEV,
            autonomy=2,
            templates=("help",),
        )
        opened = await authority.tasks.open(
            TaskRequest(template="help"), agent=agent, opened_by="user:ada"
        )
        svid = seat.house.trust_domain.issue_jwt_svid(agent.spiffe_id, ["remit"])
        headers = {"Authorization": f"Bearer {svid}", "Remit-Task": opened.token}
        for _ in range(2):
            at = f"{seat.house.loaded.url}/egress/crm/notes"
            async with seat.session.get(at, headers=headers) as answer:
                claims = await answer.json(content_type=None)
                assert answer.status == 200, claims
            assert (claims["sub"], claims["task"]) == ("user:ada", opened.task.id)
            assert f"certificate {claims['cnf']['x5t#S256']}" == minted[-1].memo
        await close_task(opened.task.id, TaskState.COMPLETED, "user:ada", authority)
        assert len(minted) == (2 if scope == "call" else 1)
        for each in minted:
            assert await seat.ask(each) == (401, {"refused": "RefusedError: not active"})
        kept = [record for _, record in await authority.evidence.records(limit=1000)]
        settled = [each.body for each in kept if each.kind == "lease.settled"]
        assert [each["confirmed"] for each in settled] == [True] * len(minted)
        assert [each["memo"] for each in settled] == [each.memo for each in minted]
        assert not [each for one in minted for each in one.secrets if each in repr(kept)]


@pytest.mark.parametrize("mode", ["offline", "introspect", "mtls"])
async def test_a_token_outlives_rotations_of_the_keys_but_not_their_compromise(
    tmp_path: Path, mode: str
):
    async with seated(tmp_path, mode) as seat:
        _, old = await Lab(seat).issue()
        assert await seat.accepts(old), "the resource has kept the keys by now"
        for _ in range(2):
            await rotate(seat.house, "user:ada")
            _, new = await Lab(seat).issue()
            assert (await seat.ask(new))[1]["jti"]
            assert await seat.accepts(old)
        await rotate(seat.house, "user:ada", compromised=True)
        seat.identify()
        _, fresh = await Lab(seat).issue()
        assert await seat.accepts(fresh), "an unknown key is looked for"
        if mode in INTROSPECTING:
            assert not await seat.accepts(old), "whatever keys the resource has kept"


async def test_a_call_acts_with_its_own_token_which_is_refused_after_it(tmp_path: Path):
    async with seated(tmp_path, "introspect") as seat:
        authority, used = seat.house.authority, list[Credential]()
        authority.catalogue.observe(
            "desk", "tool", [Definition(name="read", json_bytes=b'{"name":"read"}')]
        )
        agent = await authority.registry.register(
            "helper",
            by="user:ada",
            owner="user:ada",
            purpose="Help",
            environment=Environment.DEV,
            autonomy=2,
            templates=("help",),
        )
        opened = await authority.tasks.open(
            TaskRequest(template="help"), agent=agent, opened_by="user:ada"
        )
        claim = Claim(
            bearer=seat.house.trust_domain.issue_jwt_svid(agent.spiffe_id, ["remit"]),
            task_token=opened.token,
        )

        async def act(call: Call, decision: Decision, credential: Credential | None) -> Outcome:
            del decision
            assert credential is not None
            used.append(credential)
            status, claims = await seat.ask(credential)
            assert (status, claims["scope"], claims["sub"]) == (200, "read:88", "user:ada")
            return Outcome(ending=Ending.SUCCEEDED, target=call.target, result=b"{}")

        outcome = await perform(claim, _call("88"), act, authority)
        assert outcome.ending is Ending.SUCCEEDED
        assert not await seat.accepts(used[0])
        await close_task(opened.task.id, TaskState.COMPLETED, "user:ada", authority)
        with pytest.raises(MandateError):
            await perform(claim, _call("88"), act, authority)
        assert len(used) == 1
        kept = [record for _, record in await authority.evidence.records(limit=1000)]
        assert used[0].values["token"] not in repr(kept)
        settled = [each.body for each in kept if each.kind == "lease.settled"]
        assert [each["confirmed"] for each in settled] == [True]


def _call(number: str) -> Call:
    body = {"action": CALL_TOOL, "target": "desk/read", "arguments": {"id": number}}
    return Call(
        id=f"call_{1:026d}",
        action=CALL_TOOL,
        upstream="desk",
        name="read",
        arguments={"id": number},
        digest=digest(canonical(body)),
    )
