"""The OpenBao broker at a real OpenBao: tokens, secrets of a database engine, lost mints, logins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hvac
import pytest
import world
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwt
from joserfc.jwk import ECKey
from lossy import lossy
from openbao import Server, openbao_server

from remit.credentials.brokers.openbao.broker import OpenBaoBroker
from remit.credentials.port import Order, Surroundings
from remit.model.call import Call
from remit.model.decision import Decision
from remit.model.errors import BrokerError, NotMintedError
from remit.model.lease import Credential, Lease, LeaseState
from remit.model.outcome import Ending, Outcome
from remit.testing.broker_suite import BrokerSuite, Lab

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
            "timeout_seconds": 3.0,
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

    @property
    def token(self) -> str:
        """Remit's own, in its file."""
        return Path(self.options["token_file"]).read_text().strip()

    @token.setter
    def token(self, text: str) -> None:
        Path(self.options["token_file"]).write_text(text)

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


def lost(order: Order) -> Lease:
    """Return the row that a crash leaves of a mint: reserved, no memo."""
    return order.lease.moved(LeaseState.SETTLING)


async def test_a_token_says_at_openbao_which_lease_task_and_workload_it_is_for(bao: Bao):
    order = Lab(bao).order()
    credential = await bao.broker.issue(order)
    said = bao.server.root.auth.token.lookup_accessor(credential.values["accessor"])["data"]
    assert said["meta"] == {
        "remit_lease": order.lease.handle,
        "remit_task": order.lease.task,
        "remit_call": order.lease.call,
        "remit_workload": order.workload,
    }
    assert order.lease.handle in said["display_name"]
    assert said["policies"] == ["reader"]
    assert said["explicit_max_ttl"] <= 120
    assert not said["renewable"]
    assert not said["orphan"]
    assert credential.expires_at is not None
    assert credential.expires_at <= order.lease.expires_at


async def test_a_lost_mint_is_found_by_the_run_after_a_kill_through_its_note(bao: Bao):
    order = Lab(bao).order()
    credential = await bao.broker.issue(order)
    after = bao.another(list_accessors=False)
    answer = await after.revoke(lost(order), None)
    assert answer.confirmed
    assert not await bao.accepts(credential)
    assert not list((bao.folder / "state" / "brokers" / "bao").iterdir())
    await after.close()


async def test_a_lost_mint_is_found_by_listing_where_even_the_note_is_gone(bao: Bao):
    order = Lab(bao).order()
    credential = await bao.broker.issue(order)
    after = bao.another("restored")
    assert order.lease.handle in (await after.census([])).alive
    answer = await after.revoke(lost(order), None)
    assert answer.until is None
    assert not answer.confirmed, "of a secret that was read with it nobody knows the name"
    assert not await bao.accepts(credential)
    assert (await after.revoke(lost(order), None)).confirmed
    await after.close()


async def test_a_lost_mint_is_owned_up_to_where_it_may_neither_be_listed_nor_was_noted(bao: Bao):
    order = Lab(bao).order()
    credential = await bao.broker.issue(order)
    after = bao.another("restored", list_accessors=False)
    answer = await after.revoke(lost(order), None)
    assert (answer.confirmed, answer.until) == (False, order.lease.expires_at)
    census = await after.census([order.lease])
    assert census.unasked == {order.lease.handle}
    assert not census.complete
    assert await bao.accepts(credential)
    await after.close()


async def test_a_mint_whose_answer_is_lost_on_the_way_is_found_and_ended(bao: Bao):
    async with lossy(int(bao.server.url.rpartition(":")[2])) as relay:
        between = bao.another(url=f"http://127.0.0.1:{relay.port}")
        order = Lab(bao).order()
        relay.losing = True
        with pytest.raises(BrokerError) as raised:
            await between.issue(order)
        assert not isinstance(raised.value, NotMintedError), "it was made, unheard"
        assert relay.lost.is_set()
        relay.losing = False
        assert order.lease.handle in (await bao.broker.census([])).alive
        await between.revoke(lost(order), None)
        assert order.lease.handle not in (await bao.broker.census([])).alive
        await between.close()


async def test_a_denial_is_no_absence(bao: Bao):
    """OpenBao answers a dead token as it would answer for one: nothing is confirmed by that."""
    lease, credential = await Lab(bao).issue()
    bao.server.root.auth.token.revoke(bao.token)
    with pytest.raises(BrokerError, match="its age"):
        await bao.broker.revoke(lease, None)
    with pytest.raises(BrokerError):
        await bao.broker.census([lease])
    weak = bao.server.root.auth.token.create(policies=["reader"], ttl="1h")["auth"]["client_token"]
    bao.token = weak
    with pytest.raises(BrokerError, match="policy"):
        await bao.broker.revoke(lease, None)
    assert credential.values["token"] not in repr(bao.broker)


async def test_a_rotated_token_file_is_read_anew(bao: Bao):
    lease, credential = await Lab(bao).issue()
    bao.token = bao.server.remits_token(bao.folder).read_text()
    assert (await bao.broker.revoke(lease, None)).confirmed
    assert not await bao.accepts(credential)


@pytest.mark.parametrize("policy", ["remit", "reader-and-more"])
async def test_a_policy_beyond_the_token_role_is_refused_and_nothing_is_minted(
    bao: Bao, policy: str
):
    before = bao.server.accessors()
    order = Lab(bao).order(grant={"policies": ["reader", policy]})
    with pytest.raises(NotMintedError, match="allowed policies"):
        await bao.broker.issue(order)
    assert bao.server.accessors() <= before


async def test_a_lease_with_less_than_a_second_left_mints_nothing(bao: Bao):
    order = Lab(bao, seconds=0).order()
    with pytest.raises(NotMintedError, match="less than a second"):
        await bao.broker.issue(order)


async def test_a_token_of_so_many_uses_is_refused_when_they_are_used_up(bao: Bao):
    order = Lab(bao).order(grant={"policies": ["reader"], "uses": 2})
    credential = await bao.broker.issue(order)
    assert [await bao.accepts(credential) for _ in range(3)] == [True, True, False]


async def test_a_wrapped_token_is_unwrapped_once_and_dies_with_the_lease(bao: Bao):
    lab = Lab(bao)
    grant = {"policies": ["reader"], "wrap": 30}
    order = lab.order(grant=grant)
    credential = await bao.broker.issue(order)
    assert credential.expires_at is not None
    wrapping = bao.server.client(credential.values["token"])
    inside = wrapping.sys.unwrap()["auth"]["client_token"]
    client = bao.server.client(inside)
    assert client.auth.token.lookup_self()["data"]["policies"] == ["reader"]
    with pytest.raises(hvac.exceptions.VaultError):
        bao.server.client(credential.values["token"]).sys.unwrap()
    lease = order.lease.moved(LeaseState.SETTLING, memo=credential.memo)
    assert (await bao.broker.revoke(lease, None)).confirmed
    with pytest.raises(hvac.exceptions.Forbidden):
        client.auth.token.lookup_self()

    unopened = lab.order(grant=grant)
    credential = await bao.broker.issue(unopened)
    await bao.broker.revoke(unopened.lease.moved(LeaseState.SETTLING, memo=credential.memo), None)
    with pytest.raises(hvac.exceptions.VaultError):
        bao.server.client(credential.values["token"]).sys.unwrap()


async def test_a_secret_without_a_lease_is_refused_unless_that_is_accepted(bao: Bao):
    grant = {"policies": ["reader"], "secret": "secret/data/app"}
    lab, before = Lab(bao), bao.server.accessors()
    with pytest.raises(BrokerError, match="lives_on"):
        await bao.broker.issue(lab.order(grant=grant))
    assert bao.server.accessors() <= before, "the token that it was read with is gone"
    order = lab.order(grant={**grant, "lives_on": True})
    credential = await bao.broker.issue(order)
    assert (credential.values["api_key"], credential.values["n"]) == ("k" * 20, "3")
    assert "k" * 20 in credential.secrets
    answer = await bao.broker.revoke(
        order.lease.moved(LeaseState.SETTLING, memo=credential.memo), None
    )
    assert not answer.confirmed
    assert "lives on" in (answer.detail or "")
    assert not await bao.accepts(credential), "its token is gone all the same"


async def test_a_secret_that_its_token_may_not_read_leaves_no_token(bao: Bao):
    before = bao.server.accessors()
    order = Lab(bao).order(grant={"policies": ["reader"], "secret": "secret/data/other"})
    with pytest.raises(BrokerError, match="secret/data/other"):
        await bao.broker.issue(order)
    assert bao.server.accessors() <= before


class TestLogins:
    """Remit without a standing token at OpenBao."""

    @pytest.fixture
    async def jwt(self, server: Server, tmp_path: Path) -> AsyncIterator[Bao]:
        made = Bao(server, tmp_path, {"policies": ["reader"]}, login="jwt", role="remit")
        if "jwt/" not in server.root.sys.list_auth_methods()["data"]:
            server.root.sys.enable_auth_method("jwt")
        server.root.auth.jwt.configure(
            jwt_validation_pubkeys=made.signer.public_pem(), bound_issuer=made.signer.issuer
        )
        server.root.auth.jwt.create_role(
            name="remit",
            role_type="jwt",
            user_claim="sub",
            allowed_redirect_uris=[],
            bound_subject="remit",
            bound_audiences=[server.url],
            token_policies=["remit"],
            token_ttl="30m",
        )
        yield made
        await made.broker.close()

    async def test_a_jwt_that_remit_signs_is_login_enough_and_nothing_stands_afterwards(
        self, jwt: Bao
    ):
        before = jwt.server.accessors()
        lease, credential = await Lab(jwt).issue()
        assert await jwt.accepts(credential)
        assert (await jwt.broker.revoke(lease, None)).confirmed
        assert not await jwt.accepts(credential)
        assert len(jwt.server.accessors() - before) == 1, "the login"
        await jwt.broker.close()
        assert jwt.server.accessors() <= before, "it logged out"

    async def test_a_login_that_was_revoked_is_made_again(self, jwt: Bao):
        before = jwt.server.accessors()
        first, _ = await Lab(jwt).issue()
        for accessor in jwt.server.accessors() - before:
            jwt.server.root.auth.token.revoke_accessor(accessor)
        lease, credential = await Lab(jwt).issue()
        assert await jwt.accepts(credential)
        assert (await jwt.broker.revoke(first, None)).confirmed, "it died with its parent"
        assert (await jwt.broker.revoke(lease, None)).confirmed

    async def test_a_jwt_of_another_subject_is_refused(self, jwt: Bao):
        other = jwt.another(subject="somebody-else")
        with pytest.raises(NotMintedError):
            await other.issue(Lab(jwt).order())
        await other.close()

    async def test_an_approle_is_login_enough(self, server: Server, tmp_path: Path):
        server.root.sys.enable_auth_method("approle")
        server.root.auth.approle.create_or_update_approle("remit", token_policies=["remit"])
        role = server.root.auth.approle.read_role_id("remit")["data"]["role_id"]
        secret = tmp_path / "secret-id"
        secret.touch(mode=0o600)
        secret.write_text(server.root.auth.approle.generate_secret_id("remit")["data"]["secret_id"])
        made = Bao(
            server,
            tmp_path,
            {"policies": ["reader"]},
            login="approle",
            role_id=role,
            secret_id_file=str(secret),
        )
        lease, credential = await Lab(made).issue()
        assert await made.accepts(credential)
        assert (await made.broker.revoke(lease, None)).confirmed
        await made.broker.close()


async def test_an_authority_from_its_configuration_logs_in_with_a_jwt_of_its_own_keys(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """`remit.toml` to a governed call: no token of Remit's stands before, none afterwards."""
    configured = f"""\
[upstream.desk.credential]
broker = "bao"
env = {{ BAO_TOKEN = "{{token}}" }}
grant = {{ policies = ["reader"] }}
[broker.bao]
kind = "openbao"
url = "{server.url}"
login = "jwt"
mount = "remits"
role = "remit"
token_role = "remit"
"""
    monkeypatch.setattr(world, "CONFIG", world.CONFIG + configured)
    before = server.accessors()
    used: list[Credential] = []

    async def act(call: Call, decision: Decision, credential: Credential | None) -> Outcome:
        assert credential is not None
        used.append(credential)
        client = server.client(credential.values["token"])
        said = await asyncio.to_thread(client.auth.token.lookup_self)
        assert said["data"]["meta"]["remit_call"] == call.id
        return Outcome(ending=Ending.SUCCEEDED, target=call.target, result=b"{}")

    async with world.standing(tmp_path) as lived:
        keys = [
            ECKey.import_key(key).as_pem(private=False).decode()
            for key in lived.house.trust_domain.jwks()["keys"]
        ]
        server.root.sys.enable_auth_method("jwt", path="remits")
        server.root.auth.jwt.configure(
            jwt_validation_pubkeys=keys, bound_issuer=lived.house.loaded.url, path="remits"
        )
        server.root.auth.jwt.create_role(
            name="remit",
            user_claim="sub",
            allowed_redirect_uris=[],
            bound_subject="remit",
            bound_audiences=[server.url],
            token_policies=["remit"],
            token_ttl="30m",
            path="remits",
        )
        call = lived.call()
        assert (await lived.perform(call, act=act)).ending is Ending.SUCCEEDED
        with pytest.raises(hvac.exceptions.Forbidden):
            server.client(used[0].values["token"]).auth.token.lookup_self()
        records = [record for _, record in await lived.authority.evidence.find(call.id)]
        settled = next(each for each in records if each.kind == "lease.settled")
        assert settled.body["confirmed"] is True
        files = [each for each in (tmp_path / "s").rglob("*") if each.is_file()]
        token = used[0].values["token"].encode()
        assert not [each for each in files if token in each.read_bytes()]
    assert server.accessors() <= before
