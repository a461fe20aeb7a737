"""The broker `oauth` at a real Keycloak, which trusts what Remit signs about people and agents."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from joserfc import jws
from keycloak import (
    BRIEF,
    CLIENT,
    FEDERATED,
    PERSON,
    UNTOLD,
    WORKLOAD,
    Realm,
    Server,
    keycloak_server,
)
from world import standing

from remit.closing import close_task
from remit.credentials.brokers.oauth.broker import OAuthBroker
from remit.credentials.brokers.oauth.key import ClientKey
from remit.credentials.leases import Leases
from remit.credentials.port import Binding, Surroundings
from remit.credentials.sealing import KeySeal
from remit.identity.access_tokens import IssuerSigner
from remit.identity.trust_domain import TrustDomain
from remit.model.call import Call
from remit.model.decision import Decision
from remit.model.errors import BrokerError, NotMintedError
from remit.model.lease import Credential, LeaseScope, LeaseState
from remit.model.outcome import Ending, Outcome
from remit.model.task import TaskState
from remit.storage.sqlite.leases import SqliteLeases
from remit.tasks.request import TaskRequest
from remit.testing.broker_suite import BrokerSuite, Lab

pytestmark = [pytest.mark.real, pytest.mark.timeout(420)]

EXCHANGE: dict[str, Any] = {
    "grant": "token_exchange",
    "parameters": {"subject_issuer": "remit"},
    "subject_claims": {"typ": "Bearer"},
}


class Trusted:
    """Remit as Keycloak sees it: an issuer that publishes its keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.domain = TrustDomain.open(
            folder / "keys", "oauth.example", clock=lambda: datetime.now(UTC)
        )
        domain = self.domain

        class Keys(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                data = json.dumps(dict(domain.jwks())).encode()
                if self.path == "/.well-known/spiffe-bundle":
                    data = domain.bundle()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
                del format, args

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Keys)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"
        self.key = ClientKey(folder / "client.key", "ES256")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with keycloak_server() as running:
        yield running


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trusted]:
    made = Trusted(tmp_path_factory.mktemp("remit"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def realm(server: Server, trusted: Trusted) -> Realm:
    made = server.realm(
        trusted.issuer,
        f"{trusted.issuer}/oauth/jwks",
        trusted.key.published.read_text(),
        trust_domain=trusted.domain.name,
        bundle_url=f"{trusted.issuer}/.well-known/spiffe-bundle",
    )
    server.permit_exchange(made)
    return made


class Seat:
    """One broker at the realm, as the suite uses it."""

    installation = "remit-0a1b2c3d"
    names_are_ours = False

    def __init__(
        self, realm: Realm, trusted: Trusted, http: aiohttp.ClientSession, **options: Any
    ) -> None:
        self.realm, self.trusted, self.http = realm, trusted, http
        self.grant = {"scope": ["openid"]}
        self.options = {
            "issuer": realm.issuer,
            "client_id": CLIENT,
            "key_file": str(trusted.folder / "client.key"),
            "timeout_seconds": 5,
            "longest_seconds": 120,
            **options,
        }
        self.broker = self.another()

    def another(self, **options: Any) -> OAuthBroker:
        """Return a broker as another run of Remit would make it."""
        return OAuthBroker("as", {**self.options, **options}, self.surroundings())

    def surroundings(self) -> Surroundings:
        return Surroundings(
            http=self.http,
            clock=lambda: datetime.now(UTC),
            signer=IssuerSigner(self.trusted.domain, self.trusted.issuer),
            installation=self.installation,
            state=self.trusted.folder,
            path=Path,
        )

    async def accepts(self, credential: Credential) -> bool:
        """Use the token for real at an endpoint of Keycloak's that wants one."""
        token, url = credential.values["token"], self.realm.endpoint("userinfo")
        proof = credential.prove("GET", url, token) if credential.prove else None
        kind = "DPoP" if proof else "Bearer"
        status = await asyncio.to_thread(self.realm.userinfo, f"{kind} {token}", proof)
        assert status in {200, 401}, status
        return status == 200

    async def down(self) -> None:
        self.realm.server.stop()

    async def up(self) -> None:
        self.realm.server.go_on()

    async def expire(self, credential: Credential) -> None:
        assert credential.expires_at is not None
        left = (credential.expires_at - datetime.now(UTC)).total_seconds()
        await asyncio.sleep(max(0.0, left) + 0.1)  # nobody can move Keycloak's clock


Seating = Callable[..., AbstractAsyncContextManager[Seat]]


@pytest.fixture
def seating(realm: Realm, trusted: Trusted) -> Seating:
    @asynccontextmanager
    async def seated(**options: Any) -> AsyncIterator[Seat]:
        async with aiohttp.ClientSession(trust_env=False) as http:
            seat = Seat(realm, trusted, http, **options)
            yield seat
            await seat.broker.close()

    return seated


class TestClientCredentials(BrokerSuite):
    @pytest.fixture
    async def target(self, seating: Seating) -> AsyncIterator[Seat]:
        async with seating() as seat:
            yield seat


class TestJwtBearer(BrokerSuite):
    """For a person, in exchange for what Remit says of them (RFC 7523 section 2.1)."""

    @pytest.fixture
    async def target(self, seating: Seating) -> AsyncIterator[Seat]:
        async with seating(grant="jwt_bearer", bound="dpop") as seat:
            yield seat


class TestExchange(BrokerSuite):
    """For a person, in exchange for what Remit says of them (RFC 8693)."""

    @pytest.fixture
    async def target(self, seating: Seating) -> AsyncIterator[Seat]:
        async with seating(**EXCHANGE) as seat:
            yield seat


class TestFederated(BrokerSuite):
    """Without a key of its own: Remit's word as an issuer is the client's assertion."""

    @pytest.fixture
    async def target(self, seating: Seating) -> AsyncIterator[Seat]:
        async with seating(client_id=FEDERATED, client_auth="federated", key_file=None) as seat:
            yield seat


class TestWorkload(BrokerSuite):
    """Without a key of its own: an SVID of Remit's trust domain is the client's assertion."""

    @pytest.fixture
    async def target(self, seating: Seating) -> AsyncIterator[Seat]:
        async with seating(client_id=WORKLOAD, client_auth="spiffe", key_file=None) as seat:
            yield seat


class TestAtExpiry(BrokerSuite):
    """As at a server that takes nothing back: shown to end, and refused after it."""

    @pytest.fixture
    async def target(self, seating: Seating) -> AsyncIterator[Seat]:
        options = {"client_id": BRIEF, "revocation": "at_expiry", "longest_seconds": 10}
        async with seating(**options) as seat:
            yield seat


def said(credential: Credential) -> dict[str, Any]:
    """Return a token's claims, unverified: what Keycloak put in."""
    found: dict[str, Any] = json.loads(
        jws.extract_compact(credential.values["token"].encode()).payload
    )
    return found


@pytest.mark.parametrize("options", [{"grant": "jwt_bearer"}, EXCHANGE], ids=["bearer", "exchange"])
async def test_keycloak_gives_the_persons_token_for_remits_word(
    seating: Seating, options: dict[str, Any]
):
    async with seating(**options) as seat:
        _, credential = await Lab(seat).issue()
        claims = said(credential)
        assert (claims["email"], claims["azp"]) == ("ada@corp.example", CLIENT)
        stranger = Lab(seat).order(on_behalf_of="user:mallory@corp.example")
        if options is not EXCHANGE:  # an exchange may make people known: that is Keycloak's to say
            with pytest.raises(NotMintedError, match="invalid_grant"):
                await seat.broker.issue(stranger)
            assert (await seat.broker.revoke(stranger.lease, None)).confirmed


async def test_a_scope_that_the_client_does_not_have_mints_nothing(seating: Seating):
    async with seating() as seat:
        order = Lab(seat).order(grant={"scope": ["no-such-scope"]})
        with pytest.raises(NotMintedError, match="invalid_scope"):
            await seat.broker.issue(order)
        answer = await seat.broker.revoke(order.lease.moved(LeaseState.SETTLING), None)
        assert (answer.confirmed, answer.until) == (True, None), "a refusal leaves nothing behind"


async def test_a_server_that_tells_this_client_nothing_confirms_nothing(seating: Seating):
    """It says `active: false` of a token that is alive, too."""
    async with seating(client_id=UNTOLD) as seat:
        lease, credential = await Lab(seat).issue()
        assert await seat.accepts(credential)
        answer = await seat.broker.revoke(lease, credential.keep)
        assert not await seat.accepts(credential)
        assert not answer.confirmed
        assert "tells this client nothing" in (answer.detail or "")


async def test_the_run_after_a_kill_revokes_by_what_was_kept_or_owns_up(seating: Seating):
    async with seating() as seat:
        lab = Lab(seat)
        lease, credential = await lab.issue()
        after = seat.another()
        assert (await after.revoke(lease, credential.keep)).confirmed
        assert not await seat.accepts(credential)
        order = lab.order()
        lost = await seat.broker.issue(order)
        answer = await seat.another().revoke(order.lease.moved(LeaseState.SETTLING), None)
        assert answer.until is not None
        assert lost.expires_at is not None
        assert answer.until >= lost.expires_at, "no sooner than the token that may be there"


async def test_a_mint_that_is_cut_short_is_waited_for_and_ended(seating: Seating):
    async with seating() as seat:
        order = Lab(seat).order()
        await seat.broker.issue(Lab(seat).order())  # its metadata is known from here on
        minting = asyncio.create_task(seat.broker.issue(order))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        work = seat.broker._mints[order.lease.handle]
        assert not work.done()
        minting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await minting
        answer = await seat.broker.revoke(order.lease.moved(LeaseState.SETTLING), None)
        assert (answer.confirmed, answer.until) == (True, None)
        assert not await seat.accepts(work.result())


async def test_a_token_that_lives_longer_than_was_said_is_ended_at_once(seating: Seating):
    async with seating(longest_seconds=60) as seat:
        with pytest.raises(BrokerError, match="longest_seconds"):
            await seat.broker.issue(Lab(seat).order())


async def test_another_key_than_the_registered_one_is_nobody(seating: Seating, tmp_path: Path):
    async with seating(key_file=str(tmp_path / "other.key")) as seat:
        with pytest.raises(NotMintedError, match=r"invalid_client|unauthorized_client"):
            await seat.broker.issue(Lab(seat).order())


async def test_an_svid_of_anybody_else_is_not_the_client(seating: Seating, tmp_path: Path):
    async with seating(client_id=WORKLOAD, client_auth="spiffe", key_file=None) as seat:
        surroundings = seat.surroundings()
        neighbour = OAuthBroker("other", seat.options, surroundings)
        with pytest.raises(NotMintedError, match=r"invalid_client|unauthorized_client"):
            await neighbour.issue(Lab(seat).order())  # another identity of the same trust domain
        name = seat.trusted.domain.name
        domain = TrustDomain.open(tmp_path / "keys", name, clock=lambda: datetime.now(UTC))
        strange = replace(surroundings, signer=IssuerSigner(domain, seat.trusted.issuer))
        with pytest.raises(NotMintedError, match=r"invalid_client|unauthorized_client"):
            await OAuthBroker("as", seat.options, strange).issue(Lab(seat).order())
        await seat.broker.issue(Lab(seat).order())


async def test_an_svid_of_a_key_that_came_into_use_since_is_taken(
    seating: Seating, trusted: Trusted
):
    async with seating(client_id=WORKLOAD, client_auth="spiffe", key_file=None) as seat:
        await seat.broker.issue(Lab(seat).order())
        trusted.domain.rotate()  # the bundle that Keycloak has holds the next key already
        _, credential = await Lab(seat).issue()
        assert await seat.accepts(credential)


async def test_a_token_bound_to_a_key_is_refused_without_it(seating: Seating):
    async with seating(bound="dpop") as seat:
        _, credential = await Lab(seat).issue()
        assert said(credential)["cnf"]["jkt"]
        token = credential.values["token"]
        assert await asyncio.to_thread(seat.realm.userinfo, f"Bearer {token}") == 401
        assert await asyncio.to_thread(seat.realm.userinfo, f"DPoP {token}") == 401
        assert await seat.accepts(credential)


async def test_an_issuer_that_is_spelled_otherwise_is_not_asked_for_tokens(seating: Seating):
    async with seating() as seat:
        other = seat.another(issuer=f"{seat.realm.issuer}/")
        with pytest.raises(NotMintedError, match="another issuer"):
            await other.issue(Lab(seat).order())


async def test_a_task_acts_with_a_token_of_its_persons_and_nobody_after_its_end(
    seating: Seating, tmp_path: Path
):
    used = list[Credential]()
    async with seating(grant="jwt_bearer") as seat, standing(tmp_path) as world:

        async def act(call: Call, decision: Decision, credential: Credential | None) -> Outcome:
            del decision
            assert credential is not None
            used.append(credential)
            assert await seat.accepts(credential)
            return Outcome(ending=Ending.SUCCEEDED, target=call.target, result=b"{}")

        binding = Binding(
            name="as", broker=seat.broker, scope=LeaseScope.TASK, grant=seat.grant, seconds=60
        )
        leases = Leases(
            bindings={"desk": binding},
            store=SqliteLeases(world.house.journal),
            recorder=world.authority.evidence,
            clock=world.authority.clock,
            seal=KeySeal(bytes(32)),
            installation=seat.installation,
        )
        object.__setattr__(world.house.authority, "leases", leases)
        world.opened = await world.authority.tasks.open(
            TaskRequest(template="help", on_behalf_of=PERSON), agent=world.agent, opened_by=PERSON
        )
        for _ in range(2):
            assert (await world.perform(act=act)).ending is Ending.SUCCEEDED
        assert len({each.values["token"] for each in used}) == 1, "one for the task"
        assert said(used[0])["email"] == "ada@corp.example"
        await close_task(world.opened.task.id, TaskState.COMPLETED, PERSON, world.authority)
        assert not await seat.accepts(used[0])
        kept = [record for _, record in await world.authority.evidence.records(limit=1000)]
        settled = [each.body for each in kept if each.kind == "lease.settled"]
        assert [each["confirmed"] for each in settled] == [True]
        assert used[0].values["token"] not in repr(kept)
