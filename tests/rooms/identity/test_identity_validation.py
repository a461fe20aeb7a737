from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from remit.identity import jose
from remit.identity.bundle import Bundle, parse_bundle
from remit.identity.trust_domain import TrustDomain
from remit.identity.validation import LEEWAY_SECONDS, SvidValidator
from remit.model.errors import UnidentifiedError
from remit.model.subject import SpiffeId
from remit.testing.identity import ForeignSigner, ManualClock, base64url, trust_domain

SIGNER = ForeignSigner()
CLOCK = ManualClock()
NOW = int(CLOCK().timestamp())


class Bundles:
    def __init__(self, **documents: bytes) -> None:
        self.known: dict[str, Bundle] = {}
        for name, data in documents.items():
            self.set(f"{name}.example", data)

    def set(self, name: str, data: bytes) -> None:
        self.known[name] = parse_bundle(name, data)

    def bundle_of(self, trust_domain: str) -> Bundle | None:
        return self.known.get(trust_domain)


def claims(**changes: Any) -> dict[str, Any]:
    good = {"sub": "spiffe://foreign.example/a", "aud": ["remit"], "exp": NOW + 60, "iat": NOW}
    return {name: value for name, value in {**good, **changes}.items() if value is not ...}


def svids(**documents: bytes) -> SvidValidator:
    return SvidValidator(Bundles(**{"foreign": SIGNER.bundle(), **documents}), clock=CLOCK)


def refused(token: str, match: str) -> None:
    checked = svids()
    for _ in range(2):
        with pytest.raises(UnidentifiedError, match=match) as caught:
            checked.jwt(token, "remit")
        assert not token or token not in str(caught.value)
        assert "\n" not in str(caught.value)
    assert len(checked._tokens) == 0


def test_a_good_token_of_a_federated_trust_domain_is_accepted() -> None:
    token = SIGNER.sign(claims())
    verified = svids().jwt(token, "remit")
    assert str(verified.spiffe_id) == "spiffe://foreign.example/a"
    assert verified.credential == jose.digest_of(token)
    assert int(verified.expires_at.timestamp()) == NOW + 60


@pytest.mark.parametrize("typ", ["JWT", "JOSE", None])
@pytest.mark.parametrize("aud", ["remit", ["remit"], ["other", "remit"]])
def test_every_form_that_the_standard_allows_is_accepted(typ: str | None, aud: object) -> None:
    assert svids().jwt(SIGNER.sign(claims(aud=aud), typ=typ), "remit")


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ({"alg": "none"}, "algorithm `none`"),
        ({"alg": "None"}, "algorithm `None`"),
        ({"alg": "HS256"}, "algorithm `HS256`"),
        ({"alg": ""}, "algorithm"),
        ({"alg": 1}, "algorithm `int`"),
        ({"alg": ["ES256"]}, "algorithm `list`"),
        ({"alg": None}, "algorithm"),
        ({"alg": "ES256K"}, "algorithm"),
        ({"alg": "EdDSA"}, "algorithm"),
        ({"alg": "ES384"}, "does not fit the key"),
        ({"alg": "RS256"}, "does not fit the key"),
        ({"kid": None}, "names no key"),
        ({"kid": ""}, "names no key"),
        ({"kid": "other"}, "no key that signed"),
        ({"kid": 7}, "key id"),
        ({"kid": "k" * 300}, "key id"),
        ({"kid": "../../dev/null"}, "no key that signed"),
        ({"typ": "remit-task+jwt"}, "type is not that of a JWT-SVID"),
        ({"typ": "at+jwt"}, "type is not that of a JWT-SVID"),
        ({"typ": "wit+jwt"}, "type is not that of a JWT-SVID"),
        ({"typ": ["JWT"]}, "type is not that of a JWT-SVID"),
        ({"crit": ["exp"]}, "`crit` is not supported"),
        ({"b64": False}, "`b64` is not supported"),
        ({"jwk": SIGNER.jwk()}, "headers that SPIFFE does not allow"),
        ({"jku": "https://evil.example"}, "headers that SPIFFE does not allow"),
        ({"x5c": ["MII"]}, "headers that SPIFFE does not allow"),
    ],
)
def test_a_header_that_is_wrong_is_refused(header: dict[str, Any], match: str) -> None:
    refused(SIGNER.sign(claims(), **header), match)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"exp": ...}, "does not expire"),
        ({"exp": None}, "not a number"),
        ({"exp": "2099"}, "not a number"),
        ({"exp": True}, "not a number"),
        ({"exp": [NOW + 60]}, "not a number"),
        ({"exp": 1e300}, "not a time"),
        ({"exp": 10**30}, "not a time"),
        ({"exp": -1}, "not a time"),
        ({"exp": NOW}, "expired"),
        ({"exp": NOW + 0.9}, "expired"),
        ({"exp": NOW - 1}, "expired"),
        ({"nbf": NOW + LEEWAY_SECONDS + 1}, "not valid yet"),
        ({"iat": NOW + LEEWAY_SECONDS + 1}, "not valid yet"),
        ({"nbf": "soon"}, "not a number"),
        ({"aud": ...}, "no audience"),
        ({"aud": []}, "no audience"),
        ({"aud": None}, "no audience"),
        ({"aud": {"remit": 1}}, "no audience"),
        ({"aud": ["remit", 1]}, "not a string or a list"),
        ({"aud": ["remit", ["remit"]]}, "not a string or a list"),
        ({"aud": [["remit"]]}, "not a string or a list"),
        ({"aud": ["remit", ""]}, "not a string or a list"),
        ({"aud": "remit2"}, "another audience"),
        ({"aud": "Remit"}, "another audience"),
        ({"aud": "remit "}, "another audience"),
        ({"aud": ["xremit", "remi"]}, "another audience"),
        ({"sub": ...}, "no subject"),
        ({"sub": ["spiffe://foreign.example/a"]}, "no subject"),
        ({"sub": "alice"}, "not a SPIFFE ID"),
        ({"sub": "spiffe://foreign.example"}, "not a workload"),
        ({"sub": "spiffe://foreign.example/"}, "not a SPIFFE ID"),
        ({"sub": "spiffe://foreign.example/a/../b"}, "not a SPIFFE ID"),
        ({"sub": "spiffe://foreign.example/a?b"}, "not a SPIFFE ID"),
        ({"sub": "spiffe://FOREIGN.example/a"}, "not a SPIFFE ID"),
        ({"sub": "spiffe://unknown.example/a"}, "not one that remit trusts"),
    ],
)
def test_claims_that_are_wrong_are_refused(changes: dict[str, Any], match: str) -> None:
    checked = svids()
    with pytest.raises(UnidentifiedError, match=match):
        checked.jwt(SIGNER.sign(claims(**changes)), "remit")


def test_what_begins_within_the_leeway_is_accepted_and_what_ended_is_not() -> None:
    assert svids().jwt(SIGNER.sign(claims(nbf=NOW + LEEWAY_SECONDS)), "remit")
    refused(SIGNER.sign(claims(exp=NOW)), "expired")


def test_the_public_key_as_an_hmac_secret_is_refused() -> None:
    pem = SIGNER.key.as_pem(private=False)
    head = base64url(json.dumps({"alg": "HS256", "kid": SIGNER.kid}).encode())
    body = base64url(json.dumps(claims()).encode())
    mac = hmac.digest(pem, f"{head}.{body}".encode(), "sha256")
    refused(f"{head}.{body}.{base64url(mac)}", "algorithm `HS256`")


def test_a_key_of_one_trust_domain_does_not_speak_for_another() -> None:
    other = ForeignSigner(kid=SIGNER.kid)
    checked = svids(other=other.bundle())
    token = other.sign(claims())
    with pytest.raises(UnidentifiedError, match="signature does not hold"):
        checked.jwt(token, "remit")
    assert checked.jwt(other.sign(claims(sub="spiffe://other.example/a")), "remit")


def test_a_key_for_x509_does_not_sign_tokens() -> None:
    document = json.dumps({"keys": [SIGNER.jwk(use="wit-svid"), SIGNER.jwk(use="other")]}).encode()
    checked = SvidValidator(Bundles(foreign=document), clock=CLOCK)
    with pytest.raises(UnidentifiedError, match="no key that signed"):
        checked.jwt(SIGNER.sign(claims()), "remit")


def test_a_wrong_curve_is_refused() -> None:
    signer = ForeignSigner(kid="p384", curve="P-384")
    checked = svids(other=signer.bundle())
    token = signer.sign(claims(sub="spiffe://other.example/a"))
    with pytest.raises(UnidentifiedError, match="does not fit the key"):
        checked.jwt(token, "remit")


@pytest.mark.parametrize(
    "payload",
    [
        b'{"sub":"spiffe://foreign.example/a","sub":"spiffe://foreign.example/b","aud":"remit","exp":9999999999}',
        b'{"sub":"spiffe://foreign.example/a","aud":"other","\\u0061ud":"remit","exp":9999999999}',
        b'{"sub":"spiffe://foreign.example/a","aud":"remit","exp":9999999999,"x":{"a":1,"a":2}}',
        b'{"sub":"spiffe://foreign.example/a","aud":"remit","exp":NaN}',
        b'{"sub":"spiffe://foreign.example/a","aud":"remit","exp":Infinity}',
        b"[]",
        b'"spiffe"',
        b"null",
        b"{",
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b"[" * 5000,
        b'{"exp":' + b"9" * 5000 + b"}",
    ],
)
def test_a_payload_that_is_not_one_plain_object_is_refused(payload: bytes) -> None:
    refused(SIGNER.sign(payload), "not valid JSON|not a JSON object")


def _good() -> str:
    return SIGNER.sign(claims())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: "",
        lambda t: "garbage",
        lambda t: t + ".",
        lambda t: t + "=",
        lambda t: t + " ",
        lambda t: " " + t,
        lambda t: t + "\n",
        lambda t: t.replace(".", "..", 1),
        lambda t: ".".join(t.split(".")[:2]),
        lambda t: ".".join(t.split(".")[:2]) + ".",
        lambda t: t + "." + t,
        lambda t: json.dumps({"payload": t.split(".")[1]}),
        lambda t: t.replace("e", "+", 1),
        lambda t: t.replace("e", "é", 1),
        lambda t: "\ud800" + t,
        lambda t: t + "A" * 20_000,
        lambda t: t[:-1] + chr(ord(t[-1]) + 1) if t[-1] in "AQgw" else t + "A",
    ],
)
def test_a_token_in_another_form_is_refused(spoil: Callable[[str], str]) -> None:
    refused(spoil(_good()), "token")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200) | st.from_regex(r"[\w-]{1,40}\.[\w-]{1,40}\.[\w-]{1,40}"))
def test_no_text_is_a_token_and_none_is_anything_but_refused(text: str) -> None:
    with pytest.raises(UnidentifiedError):
        svids().jwt(text, "remit")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_token_with_one_character_changed_is_accepted(data: st.DataObject) -> None:
    token = _good()
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("ABCXYZabcxyz0189-_."))
    changed = token[:place] + other + token[place + 1 :]
    if changed == token:
        return
    with pytest.raises(UnidentifiedError):
        svids().jwt(changed, "remit")


def test_a_cached_token_is_still_held_to_its_audience() -> None:
    checked = svids()
    token = SIGNER.sign(claims())
    assert checked.jwt(token, "remit")
    with pytest.raises(UnidentifiedError, match="another audience"):
        checked.jwt(token, "payments")
    assert checked.jwt(token, "remit")


def test_a_cached_token_ends_with_its_expiry_its_key_or_its_revocation() -> None:
    clock = ManualClock()
    bundles = Bundles(foreign=SIGNER.bundle())
    checked = SvidValidator(bundles, clock=clock)
    token = SIGNER.sign(claims())
    first = checked.jwt(token, "remit")
    assert checked.jwt(token, "remit") is first
    bundles.set("foreign.example", ForeignSigner("new").bundle())
    with pytest.raises(UnidentifiedError, match="no key that signed"):
        checked.jwt(token, "remit")
    bundles.set("foreign.example", SIGNER.bundle())
    assert checked.jwt(token, "remit")
    checked.revoke(first.credential, first.expires_at)
    with pytest.raises(UnidentifiedError, match="revoked"):
        checked.jwt(token, "remit")
    clock.move(61)
    with pytest.raises(UnidentifiedError, match="expired"):
        checked.jwt(token, "remit")


def test_an_empty_key_set_revokes_everything() -> None:
    bundles = Bundles(foreign=SIGNER.bundle())
    checked = SvidValidator(bundles, clock=CLOCK)
    token = SIGNER.sign(claims())
    assert checked.jwt(token, "remit")
    bundles.set("foreign.example", b'{"keys":[]}')
    with pytest.raises(UnidentifiedError, match="no key that signed"):
        checked.jwt(token, "remit")


def test_an_unsigned_or_foreign_signature_is_refused() -> None:
    head, body, _ = _good().split(".")
    stranger = ForeignSigner(kid=SIGNER.kid).sign(claims())
    refused(stranger, "signature does not hold")
    for zero in (b"\0" * 64, b"\0" * 63, b"\0" * 65, b"\xff" * 64):
        refused(f"{head}.{body}.{base64url(zero)}", "signature does not hold")


@pytest.fixture
def own(tmp_path: Path) -> tuple[TrustDomain, SvidValidator, ManualClock]:
    clock = ManualClock()
    authority = trust_domain(tmp_path, clock=clock)

    class Own:
        def bundle_of(self, name: str) -> Bundle | None:
            return authority.parsed_bundle() if name == authority.name else None

    return authority, SvidValidator(Own(), clock=clock), clock


def test_a_chain_is_accepted_in_der_and_in_pem_and_until_it_expires(
    own: tuple[TrustDomain, SvidValidator, ManualClock],
) -> None:
    from cryptography import x509  # noqa: PLC0415 - the one place here that reads certificates

    authority, checked, clock = own
    svid = authority.issue_x509_svid(SpiffeId("test.example", "/agent/a"), seconds=60)
    pem = x509.load_der_x509_certificate(svid.certificates[0]).public_bytes(
        serialization.Encoding.PEM
    )
    for data in (svid.certificates[0], pem):
        verified = checked.certificate(data)
        assert verified.method == "x509-svid"
        assert verified.expires_at == svid.expires_at
    clock.now = svid.expires_at - timedelta(seconds=1)
    assert checked.certificate(pem)
    clock.now = svid.expires_at
    with pytest.raises(UnidentifiedError, match="expired"):
        checked.certificate(pem)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"\x30\x80",
        b"\x30\x84\xff\xff\xff\xff",
        b"junk",
        b"-----BEGIN",
        b"\x30" * 70_000,
    ],
)
def test_a_chain_that_is_junk_is_refused(
    own: tuple[TrustDomain, SvidValidator, ManualClock], data: bytes
) -> None:
    with pytest.raises(UnidentifiedError, match="chain"):
        own[1].certificate(data)


def test_a_chain_with_something_after_it_is_refused(
    own: tuple[TrustDomain, SvidValidator, ManualClock],
) -> None:
    authority, checked, _ = own
    leaf = authority.issue_x509_svid(SpiffeId("test.example", "/agent/a")).certificates[0]
    for data in (leaf + b"x", leaf + leaf, leaf * 6):
        with pytest.raises(UnidentifiedError):
            checked.certificate(data)


def test_a_revoked_certificate_is_refused(
    own: tuple[TrustDomain, SvidValidator, ManualClock],
) -> None:
    authority, checked, _ = own
    leaf = authority.issue_x509_svid(SpiffeId("test.example", "/agent/a")).certificates[0]
    verified = checked.certificate(leaf)
    checked.revoke(verified.credential, verified.expires_at)
    with pytest.raises(UnidentifiedError, match="revoked"):
        checked.certificate(leaf)
