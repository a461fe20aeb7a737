"""Proofs of possession: one test for each way to be wrong, and none is good twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, RSAKey

from remit.identity.desk import Identity
from remit.identity.dpop import (
    MAX_AGE_SECONDS,
    MAX_AHEAD_SECONDS,
    InvalidProofError,
    Proofs,
    challenge,
)
from remit.identity.federation import Federation
from remit.identity.registry import Registry
from remit.identity.trust_domain import TrustDomain
from remit.identity.validation import SvidValidator
from remit.model.errors import ConfigError, UnidentifiedError
from remit.model.subject import Agent, Claim, Environment, Possession
from remit.proof.dpop import ProofKey, address, thumbprint, token_hash
from remit.testing.evidence import MemoryRecorder
from remit.testing.identity import ForeignSigner, ManualClock, MemoryAgents, base64url, trust_domain

URL = "https://remit.example"
HERE = f"{URL}/mcp/git"
TOKEN = "the.svid.presented"


@dataclass
class Door:
    """One authority's memory, a clock, and a key that knocks."""

    clock: ManualClock = field(default_factory=ManualClock)
    signer: ForeignSigner = field(default_factory=ForeignSigner)

    def __post_init__(self) -> None:
        self.proofs = Proofs(url=URL, clock=self.clock)
        self.key = ProofKey.generate(now=lambda: self.clock().timestamp())

    @property
    def jwk(self) -> dict[str, Any]:
        return {name: self.signer.jwk()[name] for name in ("kty", "crv", "x", "y")}

    def claims(self, **changes: Any) -> dict[str, Any]:
        good = {
            "jti": "once",
            "htm": "POST",
            "htu": HERE,
            "iat": int(self.clock().timestamp()),
            "ath": token_hash(TOKEN),
        }
        return {name: value for name, value in {**good, **changes}.items() if value is not None}

    def proof(self, claims: Mapping[str, Any] | bytes | None = None, **header: Any) -> str:
        head = {"typ": "dpop+jwt", "kid": None, "jwk": self.jwk, **header}
        return self.signer.sign(self.claims() if claims is None else claims, **head)

    def take(self, *proofs: str, token: str | None = TOKEN, method: str = "POST") -> str | None:
        possession = Possession(proofs=proofs, method=method, path="/mcp/git")
        shown = self.proofs.read(possession, token)
        if shown is None:
            return None
        self.proofs.use(shown, "spiffe://test.example/agent/a")
        return shown.key


@pytest.fixture
def door() -> Door:
    return Door()


def wrong(door: Door, match: str, *proofs: str, **request: Any) -> None:
    with pytest.raises(InvalidProofError, match=match) as caught:
        door.take(*proofs, **request)
    assert "\n" not in str(caught.value)
    assert all(proof not in str(caught.value) for proof in proofs if len(proof) > 20)
    assert len(door.proofs) == 0


def test_a_proof_shows_the_key_that_signed_it(door: Door) -> None:
    assert door.take(door.proof()) == thumbprint(door.jwk)
    assert door.take(door.key.prove("POST", f"{HERE}?a=b#c", TOKEN)) == door.key.thumbprint


def test_where_there_is_no_proof_no_key_is_shown(door: Door) -> None:
    assert door.take() is None


@pytest.mark.parametrize(
    ("alg", "key"),
    [
        ("ES384", ECKey.generate_key("P-384")),
        ("ES512", ECKey.generate_key("P-521")),
        ("PS256", RSAKey.generate_key(2048)),
        ("RS512", RSAKey.generate_key(2048)),
    ],
)
def test_other_kinds_of_keys_prove_as_well(door: Door, alg: str, key: ECKey | RSAKey) -> None:
    public = key.as_dict(private=False)
    jwk = {name: public[name] for name in ("kty", "crv", "x", "y", "n", "e") if name in public}
    head = {"typ": "dpop+jwt", "alg": alg, "jwk": jwk}
    proof = jws.serialize_compact(head, json.dumps(door.claims()), key, algorithms=[alg])
    assert door.take(proof) == thumbprint(jwk)


def test_two_headers_are_refused(door: Door) -> None:
    wrong(door, "more than one", door.proof(), door.proof(door.claims(jti="other")))


@pytest.mark.parametrize("proof", ["", "junk", "a.b.c, d.e.f", "a.b", "x" * 9000])
def test_what_is_no_jws_is_refused(door: Door, proof: str) -> None:
    wrong(door, "malformed|longer than", proof)


@pytest.mark.parametrize("typ", [None, "JWT", "jwt", "at+jwt", "DPOP+JWT", 1])
def test_another_type_is_refused(door: Door, typ: Any) -> None:
    wrong(door, "not of type `dpop", door.proof(typ=typ))


@pytest.mark.parametrize("alg", ["none", "HS256", None, "ES256K", "EdDSA"])
def test_an_algorithm_that_is_not_asymmetric_or_not_known_is_refused(door: Door, alg: Any) -> None:
    wrong(door, "algorithm", door.proof(alg=alg))


def test_an_hmac_under_the_public_key_is_refused(door: Door) -> None:
    key = OctKey.import_key(json.dumps(door.jwk))
    head = {"typ": "dpop+jwt", "alg": "HS256", "jwk": door.jwk}
    wrong(door, "algorithm", jws.serialize_compact(head, json.dumps(door.claims()), key))


@pytest.mark.parametrize("jwk", [None, "key", [], 1])
def test_no_key_in_the_header_is_refused(door: Door, jwk: Any) -> None:
    wrong(door, "no public key", door.proof(jwk=jwk))


@pytest.mark.parametrize("member", ["d", "p", "k"])
def test_a_private_member_of_the_key_is_refused(door: Door, member: str) -> None:
    wrong(door, "not a public key", door.proof(jwk={**door.jwk, member: "AAAA"}))


@pytest.mark.parametrize(
    "change",
    [
        {"x": "AA"},
        {"x": None},
        {"crv": "secp256k1"},
        {"kty": "oct"},
        {"kty": "OKP", "crv": "Ed25519"},
        {"alg": "ES384"},
    ],
)
def test_a_malformed_or_strange_key_is_refused(door: Door, change: dict[str, Any]) -> None:
    wrong(door, "key is refused", door.proof(jwk={**door.jwk, **change}))


@pytest.mark.parametrize("exponent", [(1 << 65) + 1, (1 << 2040) + 1], ids=["65 bits", "2041 bits"])
def test_an_rsa_key_that_is_dear_to_verify_with_is_refused(door: Door, exponent: int) -> None:
    key = RSAKey.generate_key(2048).as_dict(private=False)
    size = (exponent.bit_length() + 7) // 8
    jwk = {"kty": "RSA", "n": key["n"], "e": base64url(exponent.to_bytes(size))}
    wrong(door, "weak RSA key", door.proof(alg="RS256", jwk=jwk))


def test_what_a_key_is_for_counts(door: Door) -> None:
    assert door.take(door.proof(jwk={**door.jwk, "key_ops": ["verify"], "kid": "mine"}))
    door = Door()
    wrong(door, "not for verifying", door.proof(jwk={**door.jwk, "key_ops": ["sign"]}))


def test_a_key_that_is_nested_without_end_breaks_nothing(door: Door) -> None:
    for depth in (200, 600, 900, 950, 2000):
        nested: Any = "MARK"
        jwk = json.dumps({**door.jwk, "use": nested})
        head = json.dumps({"typ": "dpop+jwt", "alg": "ES256"})[:-1] + f', "jwk": {jwk}}}'
        deep = head.replace('"MARK"', "[" * depth + "]" * depth).encode()
        body = base64url(json.dumps(door.claims()).encode())
        wrong(door, "proof of possession", f"{base64url(deep)}.{body}.AAAA")


def test_a_weak_key_is_refused(door: Door) -> None:
    weak = {"kty": "RSA", "n": base64url(b"\xc1" * 128), "e": "AQAB"}
    wrong(door, "key is refused", door.proof(jwk=weak, alg="RS256"))


def test_a_signature_by_another_key_is_refused(door: Door) -> None:
    wrong(door, "does not hold", door.proof(jwk=ProofKey.generate().public))
    wrong(door, "does not hold: the token's algorithm", door.proof(alg="ES384"))


def test_a_claim_that_was_changed_after_signing_is_refused(door: Door) -> None:
    head, _, signature = door.proof().split(".")
    body = base64url(json.dumps(door.claims(jti="twice")).encode())
    wrong(door, "does not hold", f"{head}.{body}.{signature}")


@pytest.mark.parametrize("header", [{"crit": ["exp"]}, {"b64": False}])
def test_headers_that_change_the_meaning_are_refused(door: Door, header: dict[str, Any]) -> None:
    wrong(door, "not supported", door.proof(**header))


@pytest.mark.parametrize("payload", [b"[]", b"junk", b'{"jti":"a","jti":"b"}'])
def test_claims_that_are_no_one_object_are_refused(door: Door, payload: bytes) -> None:
    wrong(door, "malformed", door.proof(payload))


@pytest.mark.parametrize("jti", [None, "", 1, "x" * 300])
def test_a_proof_without_a_usable_jti_is_refused(door: Door, jti: Any) -> None:
    wrong(door, "`jti`", door.proof(door.claims(jti=jti)))


@pytest.mark.parametrize("htm", [None, "GET", "post", "", 1])
def test_another_method_is_refused(door: Door, htm: Any) -> None:
    wrong(door, "not for the method", door.proof(door.claims(htm=htm)))


@pytest.mark.parametrize(
    "htu",
    [
        None,
        1,
        f"{URL}/mcp/mail",
        f"{URL}/mcp/git/",
        f"{URL}/mcp%2Fgit",
        f"{URL}/MCP/git",
        f"{URL}:444/mcp/git",
        "http://remit.example/mcp/git",
        "https://evil.example/mcp/git",
    ],
)
def test_another_address_is_refused(door: Door, htu: Any) -> None:
    wrong(door, "another address", door.proof(door.claims(htu=htu)))


@pytest.mark.parametrize(
    "htu",
    [
        f"{HERE}?x=1",
        f"{HERE}?",
        f"{HERE}#x",
        "https://u:p@remit.example/mcp/git",
        f"{HERE} ",
        "é",
        "/mcp/git",
    ],
)
def test_an_address_with_more_than_an_address_is_refused(door: Door, htu: str) -> None:
    wrong(door, "`htu`", door.proof(door.claims(htu=htu)))


@pytest.mark.parametrize(
    "htu",
    ["HTTPS://Remit.Example/mcp/git", f"{URL}:443/mcp/git", f"{URL}/mcp/%67it", f"{URL}/%6dcp/git"],
)
def test_other_spellings_of_the_address_are_the_address(door: Door, htu: str) -> None:
    assert door.take(door.proof(door.claims(htu=htu)))


@pytest.mark.parametrize("iat", [None, "now", True, [], {}])
def test_a_proof_that_is_not_dated_is_refused(door: Door, iat: Any) -> None:
    wrong(door, "when it was made", door.proof(door.claims(iat=iat)))


@pytest.mark.parametrize(
    ("seconds", "match"),
    [(-MAX_AGE_SECONDS - 1, "too old"), (MAX_AHEAD_SECONDS + 1, "ahead of remit's clock")],
)
def test_a_proof_outside_the_window_is_refused(door: Door, seconds: int, match: str) -> None:
    iat = int(door.clock().timestamp()) + seconds
    wrong(door, match, door.proof(door.claims(iat=iat)))


@pytest.mark.parametrize("iat", [b"1e999", b"-1e999", b"9" * 400])
def test_a_date_that_no_clock_shows_is_refused(door: Door, iat: bytes) -> None:
    body = json.dumps(door.claims(iat=0)).encode().replace(b'"iat": 0', b'"iat": ' + iat)
    wrong(door, "ahead|too old", door.proof(body))


@pytest.mark.parametrize("seconds", [-MAX_AGE_SECONDS, 0, MAX_AHEAD_SECONDS])
def test_a_proof_within_the_window_is_taken(door: Door, seconds: int) -> None:
    iat = int(door.clock().timestamp()) + seconds
    assert door.take(door.proof(door.claims(iat=iat)))


def test_a_proof_for_another_token_is_refused(door: Door) -> None:
    wrong(door, "another token", door.proof(), token="another.token")


@pytest.mark.parametrize("ath", [None, 1, []])
def test_a_proof_for_no_token_is_refused_where_one_was_sent(door: Door, ath: Any) -> None:
    wrong(door, "for which token", door.proof(door.claims(ath=ath)))


def test_a_proof_for_a_token_is_refused_where_none_was_sent(door: Door) -> None:
    wrong(door, "not sent", door.proof(), token=None)
    assert door.take(door.proof(door.claims(ath=None)), token=None)


def test_a_proof_is_good_once(door: Door) -> None:
    proof = door.proof()
    door.take(proof)
    for _ in range(3):
        with pytest.raises(InvalidProofError, match="used before"):
            door.take(proof)
        door.clock.move(MAX_AGE_SECONDS / 4)
    door.clock.move(MAX_AGE_SECONDS)
    with pytest.raises(InvalidProofError, match="too old"):
        door.take(proof)


def test_a_jti_is_good_once_however_it_is_signed_again(door: Door) -> None:
    door.take(door.proof())
    for claims in (door.claims(), door.claims(iat=int(door.clock().timestamp()) - 1)):
        with pytest.raises(InvalidProofError, match="used before"):
            door.take(door.proof(claims))


def test_two_keys_may_happen_to_use_one_jti(door: Door) -> None:
    door.take(door.proof())
    door.signer = ForeignSigner()
    assert door.take(door.proof())


def test_what_cannot_be_used_again_is_forgotten(door: Door) -> None:
    for number in range(5):
        door.take(door.proof(door.claims(jti=str(number))))
    assert len(door.proofs) == 5
    door.clock.move(MAX_AGE_SECONDS + 1)
    door.take(door.proof())
    assert len(door.proofs) == 1


def test_a_full_memory_refuses_rather_than_forget(door: Door) -> None:
    door.proofs = Proofs(url=URL, clock=door.clock, limit=2)
    first = door.proof(door.claims(jti="1"))
    for proof in (first, door.proof(door.claims(jti="2"))):
        door.take(proof)
    with pytest.raises(InvalidProofError, match="too many"):
        door.take(door.proof(door.claims(jti="3")))
    with pytest.raises(InvalidProofError, match="used before"):
        door.take(first)
    door.clock.move(MAX_AGE_SECONDS + 1)
    assert door.take(door.proof(door.claims(jti="4")))


def test_one_caller_cannot_take_the_memory_of_all(door: Door) -> None:
    door.proofs = Proofs(url=URL, clock=door.clock, limit_each=1)
    possession = Possession(proofs=(door.proof(),), method="POST", path="/mcp/git")
    shown = door.proofs.read(possession, TOKEN)
    assert shown is not None
    door.proofs.use(shown, "spiffe://test.example/agent/greedy")
    other = door.proof(door.claims(jti="2"))
    again = door.proofs.read(Possession(proofs=(other,), method="POST", path="/mcp/git"), TOKEN)
    assert again is not None
    with pytest.raises(InvalidProofError, match="too many"):
        door.proofs.use(again, "spiffe://test.example/agent/greedy")
    door.proofs.use(again, "spiffe://test.example/agent/modest")


def test_a_proof_from_before_a_restart_is_refused(door: Door) -> None:
    before = [
        door.proof(door.claims(jti=str(ahead), iat=door.clock().timestamp() + ahead))
        for ahead in (-1, 0, MAX_AHEAD_SECONDS)
    ]
    for proof in before:
        door.take(proof)
    door.clock.move(0.001)
    door.proofs = Proofs(url=URL, clock=door.clock, since=door.clock())
    for proof in before:
        wrong(door, "before remit was started", proof)
    door.clock.move(MAX_AHEAD_SECONDS)
    for proof in before:
        wrong(door, "before remit was started", proof)
    assert door.take(door.key.prove("POST", HERE, TOKEN))


def test_a_clock_that_jumps_back_brings_no_used_proof_back(door: Door) -> None:
    proof = door.proof()
    door.take(proof)
    door.clock.move(MAX_AGE_SECONDS + 10)
    door.take(door.proof(door.claims(jti="later")))
    door.clock.move(-MAX_AGE_SECONDS - 10)
    with pytest.raises(InvalidProofError, match="before remit was started"):
        door.take(proof)


@pytest.mark.parametrize("url", ["remit.example", "https://remit.example?x", "https://é.example"])
def test_an_authority_that_no_proof_could_name_is_a_mistake_of_the_configuration(url: str) -> None:
    with pytest.raises(ConfigError, match="cannot be remit's address"):
        Proofs(url=url, clock=ManualClock())


def test_a_prefix_of_the_authority_stands_before_the_path(door: Door) -> None:
    door.proofs = Proofs(url=f"{URL}/agents/", clock=door.clock)
    assert door.take(door.proof(door.claims(htu=f"{URL}/agents/mcp/git")))


@given(path=st.text(max_size=40))
def test_no_path_breaks_the_check(path: str) -> None:
    door = Door()
    possession = Possession(proofs=(door.proof(),), method="POST", path=path)
    with pytest.raises(InvalidProofError):
        door.proofs.read(possession, TOKEN)


@given(
    uses=st.lists(
        st.tuples(st.integers(0, 3), st.integers(-40, 12), st.floats(-35, 35)), max_size=25
    )
)
def test_no_proof_is_taken_twice_whatever_the_clock_does(
    uses: list[tuple[int, int, float]],
) -> None:
    door = Door()
    start = int(door.clock().timestamp())
    taken: set[str] = set()
    for jti, ahead, moved in uses:
        proof = door.proof(door.claims(jti=str(jti), iat=start + ahead))
        name = f"{jti} {ahead}"
        try:
            door.take(proof)
        except InvalidProofError:
            pass
        else:
            assert name not in taken
            taken.add(name)
        door.clock.move(moved)


def test_the_challenge_names_the_error_and_the_algorithms() -> None:
    told = challenge(InvalidProofError("no"), 'realm="x"')
    assert told.startswith('DPoP error="invalid_dpop_proof", algs="ES256 ')
    assert told.endswith(', realm="x"')
    assert "HS" not in told
    assert "none" not in told
    assert challenge(UnidentifiedError("no")) == "Bearer"
    assert challenge(UnidentifiedError("no"), 'a="b"') == 'Bearer a="b"'
    assert challenge(UnidentifiedError("no"), invalid=True) == 'Bearer error="invalid_token"'


@pytest.mark.parametrize(
    "url", ["ftp://a/", "https://", "//a/b", "https://a\n/", "https://a:99999/", "https://[::1/"]
)
def test_what_is_no_address_has_no_spelling(url: str) -> None:
    with pytest.raises(ValueError, match=r"address|Port|IPv6"):
        address(url)


@dataclass
class Room:
    """The whole desk, with an agent."""

    clock: ManualClock
    authority: TrustDomain
    identity: Identity
    agent: Agent
    key: ProofKey
    recorder: MemoryRecorder

    def svid(self, key: ProofKey | None = None) -> str:
        extra = None if key is None else {"cnf": {"jkt": key.thumbprint}}
        return self.authority.issue_jwt_svid(self.agent.spiffe_id, ["remit"], extra=extra)

    def claim(
        self, svid: str, proof: str | None = None, *, as_dpop: bool = True, **more: Any
    ) -> Claim:
        proofs = () if proof is None else (proof,)
        possession = Possession(proofs=proofs, method="POST", path="/mcp/git")
        return Claim(bearer=svid, as_dpop=as_dpop, possession=possession, **more)


@pytest.fixture
async def room(tmp_path: Path) -> Room:
    clock, recorder = ManualClock(), MemoryRecorder()
    authority = trust_domain(tmp_path, clock=clock)
    registry = Registry(MemoryAgents(), recorder, trust_domain="test.example", clock=clock)
    agent = await registry.register(
        "a", by="o", owner="ann", purpose="p", environment=Environment.DEV
    )
    identity = Identity(
        registry,
        SvidValidator(Federation(authority, [], clock=clock), clock=clock),
        proofs=Proofs(url=URL, clock=clock),
        recorder=recorder,
    )
    key = ProofKey.generate(now=lambda: clock().timestamp())
    return Room(clock, authority, identity, agent, key, recorder)


async def test_the_subject_and_its_record_say_which_key_was_shown(room: Room) -> None:
    svid = room.svid()
    claim, subject = await room.identity.receive(
        room.claim(svid, room.key.prove("POST", HERE, svid), as_dpop=False)
    )
    assert (subject.key, subject.bound) == (room.key.thumbprint, False)
    body = subject.record().body
    assert (body["proof"], body["key"]) == ("dpop", room.key.thumbprint)
    # The claim that the spine gets holds no proof any more, and can be identified again.
    assert claim.possession is None
    assert await room.identity.identify(claim) == subject
    _, bare = await room.identity.receive(room.claim(svid, as_dpop=False))
    assert (bare.record().body["proof"], bare.record().body["key"]) == (None, None)


async def test_a_bound_svid_is_good_with_its_key_only(room: Room) -> None:
    svid, other = room.svid(room.key), ProofKey.generate(now=room.key.now)
    _, subject = await room.identity.receive(room.claim(svid, room.key.prove("POST", HERE, svid)))
    assert (subject.key, subject.bound) == (room.key.thumbprint, True)
    for match, claim in (
        ("comes with a proof", room.claim(svid)),
        ("send a proof", room.claim(svid, as_dpop=False)),
        ("another key", room.claim(svid, other.prove("POST", HERE, svid))),
        (
            "as `Authorization: DPoP`",
            room.claim(svid, room.key.prove("POST", HERE, svid), as_dpop=False),
        ),
    ):
        with pytest.raises(InvalidProofError, match=match):
            await room.identity.receive(claim)
    with pytest.raises(InvalidProofError, match="send a proof"):
        await room.identity.identify(Claim(bearer=svid))


async def test_what_a_claim_says_of_its_own_key_is_not_believed_at_the_door(room: Room) -> None:
    svid = room.svid(room.key)
    with pytest.raises(InvalidProofError, match="send a proof"):
        await room.identity.receive(room.claim(svid, as_dpop=False, key=room.key.thumbprint))


async def test_who_is_not_known_fills_no_memory(room: Room) -> None:
    proofs = room.identity._proofs
    assert proofs is not None
    for svid in ("junk", ForeignSigner().sign({"sub": "spiffe://test.example/agent/a"})):
        with pytest.raises(UnidentifiedError):
            await room.identity.receive(room.claim(svid, room.key.prove("POST", HERE, svid)))
    assert len(proofs) == 0


async def test_one_proof_sent_many_times_at_once_is_taken_once(room: Room) -> None:
    svid = room.svid()
    proof = room.key.prove("POST", HERE, svid)
    tries = [room.identity.receive(room.claim(svid, proof)) for _ in range(50)]
    ended = await asyncio.gather(*tries, return_exceptions=True)
    failed = [one for one in ended if isinstance(one, BaseException)]
    assert len(failed) == 49
    assert all(isinstance(one, InvalidProofError) for one in failed)


async def test_a_refusal_is_recorded_without_its_proof(room: Room) -> None:
    error = InvalidProofError("the proof of possession was used before: make one a request")
    await room.identity.refuse(error)
    step, _ = room.recorder.records[-1]
    assert step.kind == "call.unidentified"
    assert step.body["code"] == "invalid_dpop_proof"


def test_a_fraction_of_a_second_is_kept(door: Door) -> None:
    door.clock.move(0.25)
    proof = door.key.prove("GET", HERE)
    assert timedelta(seconds=_claims(proof)["iat"] % 1) == timedelta(seconds=0.25)
    assert "ath" not in _claims(proof)


def test_a_thumbprint_wants_a_whole_key() -> None:
    for jwk in ({}, {"kty": "EC", "crv": "P-256", "x": "a"}, {"kty": "oct", "k": "a"}):
        with pytest.raises(ValueError, match="thumbprint"):
            thumbprint(jwk)


def _claims(proof: str) -> dict[str, Any]:
    return dict(json.loads(jws.extract_compact(proof.encode()).payload))
