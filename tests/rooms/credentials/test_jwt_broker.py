"""The broker `jwt`: its options and grants, what a hostile argument cannot widen, and whose a token is."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from remit.credentials.brokers.jwt import binding
from remit.credentials.brokers.jwt.broker import MAX_TOKEN_BYTES, TOKEN_TYP, JwtBroker
from remit.credentials.port import Surroundings
from remit.identity.access_tokens import IssuerSigner
from remit.identity.trust_domain import TrustDomain
from remit.model.errors import BrokerError, ConfigError, NotMintedError, UnidentifiedError
from remit.tasks.mandates import MANDATE_TYP
from remit.tasks.token import read_token
from remit.testing.broker_suite import Lab

ISSUER = "https://remit.example"
AUDIENCE = "https://crm.example"
INSTALLATION = "remit-0a1b2c3d"


class Target:
    """A broker over a real trust domain, whose clock can be moved."""

    installation = INSTALLATION
    names_are_ours = True

    def __init__(self, folder: Path, **options: Any) -> None:
        self.grant: Mapping[str, Any] = {}
        self.ahead = timedelta()
        self.domain = TrustDomain.open(folder / "keys", "jwt.example", clock=self.clock)
        self.folder = folder
        self.broker = self.another(**options)

    def another(self, **options: Any) -> JwtBroker:
        surroundings = Surroundings(
            http=None,  # type: ignore[arg-type]
            clock=self.clock,
            signer=IssuerSigner(self.domain, ISSUER),
            installation=INSTALLATION,
            state=self.folder,
            path=Path,
        )
        return JwtBroker("t", {"audience": AUDIENCE, **options}, surroundings)

    def clock(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    async def accepts(self, credential: Any) -> bool:
        raise NotImplementedError

    up = down = expire = accepts


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return Target(tmp_path, introspected=True)


async def claims_of(target: Target, grant: Mapping[str, Any]) -> Mapping[str, Any]:
    credential = await target.broker.issue(Lab(target).order(grant=grant))
    return target.domain.verify(credential.values["token"], typ=TOKEN_TYP)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"audience": ""}, "audience"),
        ({"audience": " \t"}, "audience"),
        ({"audience": ["a", "b"]}, "audience"),
        ({"audience": None}, "audience"),
        ({"bound": "tls"}, "tls"),
        ({"bound": "mtls", "ca_key_file": "k.pem"}, "go together"),
        ({"bound": "mtls", "ca_key": "pkcs11:object=x"}, "no key can be kept elsewhere"),
        ({"ca_key_file": "k.pem", "ca_cert_file": "c.pem"}, 'say `bound = "mtls"`'),
        ({"bound": "dpop", "ca_key": "pkcs11:object=x"}, 'say `bound = "mtls"`'),
        ({"bound": "DPoP"}, "DPoP"),
        ({"introspected": "yes"}, "introspected"),
        ({"resources": ["spiffe://x/agent/y"]}, "introspected = true"),
        ({"issuer": "https://evil.example"}, "issuer"),
        ({"key": "-----BEGIN"}, "key"),
    ],
)
def test_an_option_that_makes_no_sense_is_named_with_its_table(
    target: Target, options: dict[str, Any], said: str
):
    with pytest.raises(ConfigError) as raised:
        target.another(**options)
    assert "[broker.t]" in str(raised.value)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    "name",
    [
        "iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "scope", "act", "may_act", "cnf",
        "authorization_details", "task", "active", "token_type",
    ],
)  # fmt: skip
async def test_a_claim_that_is_remits_word_is_not_the_operators(target: Target, name: str):
    with pytest.raises(ConfigError, match=f"`{name}`"):
        target.broker.check({"claims": {name: "x"}})
    with pytest.raises(NotMintedError, match=f"`{name}`"):
        await target.broker.issue(Lab(target).order(grant={"claims": {name: "x"}}))


@pytest.mark.parametrize(
    "argument",
    [
        "88 admin",
        "88\tadmin",
        "88\nadmin",
        "",
        " ",
        '88"',
        "88\\",
        "88\u00a0admin",
        "\uff18\uff18",
        "\x00",
    ],
)
async def test_an_argument_does_not_bring_a_second_scope_along(target: Target, argument: str):
    """The operator wrote `scope = ["read:{args.id}"]`; this is what the call filled in."""
    scope = f"read:{argument}" if argument.strip() else argument
    with pytest.raises(NotMintedError, match="is not one scope"):
        await target.broker.issue(Lab(target).order(grant={"scope": [scope]}))
    assert (await target.broker.census([])).alive == frozenset()


@pytest.mark.parametrize("scope", ["read:{args.id}", "{args.scope}", "a {task.id}"])
def test_a_reference_in_a_scope_wants_a_list(target: Target, scope: str):
    with pytest.raises(ConfigError, match="has to be a list"):
        target.broker.check({"scope": scope})
    target.broker.check({"scope": [scope]})


@pytest.mark.parametrize("scope", [[7], [["a"]], 7, {"a": 1}, [None]])
async def test_a_scope_of_another_type_mints_nothing(target: Target, scope: Any):
    """A value that is one reference keeps the argument's type, whatever it is."""
    with pytest.raises(NotMintedError, match="scope"):
        await target.broker.issue(Lab(target).order(grant={"scope": scope}))


async def test_scopes_of_either_spelling_are_one_claim(target: Target):
    assert (await claims_of(target, {"scope": "a  b"}))["scope"] == "a b"
    assert (await claims_of(target, {"scope": ["a", "b:c/d"]}))["scope"] == "a b:c/d"
    assert "scope" not in await claims_of(target, {})


async def test_a_token_that_no_header_holds_is_not_minted(target: Target):
    with pytest.raises(NotMintedError, match=str(MAX_TOKEN_BYTES)):
        await claims_of(target, {"claims": {"note": "x" * 8000}})
    assert (await target.broker.census([])).alive == frozenset()


async def test_a_claim_holds_text_as_text(target: Target):
    hostile = 'x","aud":"https://else.example","exp":9999999999,"y":"'
    claims = await claims_of(target, {"claims": {"note": hostile}})
    assert claims["note"] == hostile
    assert claims["aud"] == AUDIENCE


@pytest.mark.parametrize("seconds", [0, -5, 0.3])
async def test_a_lease_that_is_over_mints_nothing(target: Target, seconds: float):
    order = Lab(target).order()
    soon = target.clock().replace(microsecond=0) + timedelta(seconds=seconds)
    with pytest.raises(NotMintedError, match="less than a second"):
        await target.broker.issue(replace(order, lease=replace(order.lease, expires_at=soon)))


async def test_a_token_ends_by_itself_where_nobody_revokes_it(target: Target):
    order = Lab(target).order()
    await target.broker.issue(order)
    assert target.broker.active(order.lease.handle, "anybody")
    target.ahead = timedelta(seconds=121)
    assert not target.broker.active(order.lease.handle, "anybody")
    assert (await target.broker.census([order.lease])).alive == frozenset()


async def test_only_the_resources_that_are_named_learn_that_a_token_is_alive(target: Target):
    broker = target.another(introspected=True, resources=["spiffe://jwt.example/agent/crm"])
    order = Lab(target).order()
    await broker.issue(order)
    assert broker.active(order.lease.handle, "spiffe://jwt.example/agent/crm")
    for other in ("spiffe://jwt.example/agent/crm2", "user:ada", "", "spiffe://jwt.example"):
        assert not broker.active(order.lease.handle, other)


async def test_a_token_bound_to_a_key_names_it_and_no_two_share_one(tmp_path: Path):
    target = Target(tmp_path, bound="dpop")
    minted = [await target.broker.issue(Lab(target).order()) for _ in range(2)]
    claims = [target.domain.verify(each.values["token"], typ=TOKEN_TYP) for each in minted]
    keys = [each["cnf"]["jkt"] for each in claims]
    assert keys[0] != keys[1]
    assert all(each.prove is not None for each in minted)
    assert "_key" not in repr(minted[0])


async def test_a_token_bound_to_a_certificate_names_it_and_the_certificate_its_lease(
    tmp_path: Path,
):
    target = Target(tmp_path, bound="mtls")
    orders = [Lab(target).order() for _ in range(2)]
    minted = [await target.broker.issue(order) for order in orders]
    seen = set()
    for order, each in zip(orders, minted, strict=True):
        claims = target.domain.verify(each.values["token"], typ=TOKEN_TYP)
        made = x509.load_pem_x509_certificate(each.values["certificate"].encode())
        digest = base64.urlsafe_b64encode(made.fingerprint(hashes.SHA256())).rstrip(b"=")
        assert claims["cnf"] == {"x5t#S256": digest.decode()}
        assert int(made.not_valid_after_utc.timestamp()) == claims["exp"], (
            "neither outlives the other"
        )
        named = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uri = f"{order.workload}/task/{order.lease.task}"
        assert named.get_values_for_type(x509.UniformResourceIdentifier) == [uri]
        used = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(used) == [ExtendedKeyUsageOID.CLIENT_AUTH]
        private = load_pem_private_key(each.values["private_key"].encode(), password=None)
        assert private.public_key() == made.public_key()
        assert each.values["bundle"] == each.values["private_key"] + each.values["certificate"]
        assert each.values["private_key"] in each.secrets
        assert each.prove is None
        seen |= {made.serial_number, made.fingerprint(hashes.SHA256())}
    assert len(seen) == 4, "no two leases share one"
    again = target.another(bound="mtls")
    third = await again.issue(Lab(target).order())
    x509.load_pem_x509_certificate(third.values["certificate"].encode()).verify_directly_issued_by(
        x509.load_pem_x509_certificate((tmp_path / "brokers/t.pem").read_bytes())
    )


async def test_nothing_is_minted_that_its_certificate_would_not_outlast(tmp_path: Path):
    target = Target(tmp_path, bound="mtls", introspected=True)
    target.ahead = timedelta(days=3651)
    order = Lab(target).order()
    lease = replace(order.lease, expires_at=target.clock() + timedelta(seconds=60))
    with pytest.raises(NotMintedError, match="the authority's own certificate ends"):
        await target.broker.issue(replace(order, lease=lease))
    assert (await target.broker.census([])).alive == frozenset()


async def test_a_key_kept_elsewhere_that_does_not_sign_mints_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    target = Target(tmp_path, bound="mtls", introspected=True)

    def gone(*_: object) -> str:
        raise BrokerError("the token with the key is not there")

    monkeypatch.setattr(binding, "sign_leaf", gone)
    with pytest.raises(NotMintedError, match="is not there"):
        await target.broker.issue(Lab(target).order())
    assert (await target.broker.census([])).alive == frozenset()


async def test_an_agent_whose_name_fits_into_no_certificate_gets_no_token(tmp_path: Path):
    target = Target(tmp_path, bound="mtls")
    order = Lab(target).order(workload="spiffe://remit.test/agent/s\u00fcite")
    with pytest.raises(NotMintedError, match="does not fit"):
        await target.broker.issue(order)


async def test_no_kind_of_token_passes_for_another_under_the_same_keys(target: Target):
    """Access tokens, task tokens and mandates share a key ring: their type tells them apart."""
    order = Lab(target).order()
    token = (await target.broker.issue(order)).values["token"]
    for typ in (MANDATE_TYP, "remit-task+jwt", "JWT"):
        with pytest.raises(UnidentifiedError):
            target.domain.verify(token, typ=typ)
    with pytest.raises(UnidentifiedError):
        read_token(target.domain, token)
    claims = {"iss": ISSUER, "sub": "user:ada", "aud": AUDIENCE, "jti": order.lease.handle}
    for typ in (MANDATE_TYP, "remit-task+jwt", "JWT", "AT+JWT", "application/at+jwt", ""):
        with pytest.raises(UnidentifiedError):
            target.domain.verify(target.domain.sign(claims, typ=typ), typ=TOKEN_TYP)
    svid = target.domain.issue_jwt_svid(
        replace(target.domain.spiffe_id, path="/agent/x"), [AUDIENCE]
    )
    with pytest.raises(UnidentifiedError):
        target.domain.verify(svid, typ=TOKEN_TYP)


def test_the_issuer_is_the_authoritys_address_whatever_a_claim_says(target: Target):
    signer = IssuerSigner(target.domain, ISSUER)
    token = signer.sign_jwt({"iss": "https://evil.example"}, typ=TOKEN_TYP)
    assert target.domain.verify(token, typ=TOKEN_TYP)["iss"] == ISSUER
