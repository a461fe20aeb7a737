from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID as Eku

from remit.identity.x509 import leaf_id, verify_chain
from remit.model.errors import UnidentifiedError
from remit.testing.identity import ManualClock

NOW = ManualClock()()
DAY = timedelta(days=1)
AGENT = "spiffe://test.example/agent/a"


def usage(*on: str) -> x509.KeyUsage:
    names = [
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ]
    return x509.KeyUsage(**{name: name in on for name in names})


class Authority:
    def __init__(self, name: str = "root", parent: Authority | None = None, **changes: Any) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name.from_rfc4514_string(f"CN={name}")
        fields: dict[str, Any] = {
            "uris": ["spiffe://test.example"],
            "ca": True,
            "use": usage("key_cert_sign", "crl_sign"),
        }
        self.certificate = certificate(
            parent or self, self.key.public_key(), subject=self.name, **{**fields, **changes}
        )


def certificate(
    issuer: Authority,
    key: Any,
    *,
    uris: Sequence[str] = (AGENT,),
    ca: bool | None = False,
    length: int | None = None,
    use: x509.KeyUsage | None = usage("digital_signature"),  # noqa: B008 - immutable
    use_critical: bool = True,
    eku: Sequence[x509.ObjectIdentifier] = (),
    subject: x509.Name | None = None,
    before: Any = NOW - DAY,
    after: Any = NOW + DAY,
    more: Sequence[tuple[x509.ExtensionType, bool]] = (),
    hash_: Any = hashes.SHA256(),  # noqa: B008 - immutable
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject or x509.Name.from_rfc4514_string("CN=leaf"))
        .issuer_name(issuer.name)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(before)
        .not_valid_after(after)
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, length), critical=True)
    if use is not None:
        builder = builder.add_extension(use, critical=use_critical)
    if uris:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(u) for u in uris])
        builder = builder.add_extension(names, critical=False)
    if eku:
        builder = builder.add_extension(x509.ExtendedKeyUsage(eku), critical=False)
    for extension, critical in more:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(issuer.key, hash_)


ROOT = Authority()
KEY = ec.generate_private_key(ec.SECP256R1()).public_key()


def leaf(issuer: Authority = ROOT, **changes: Any) -> x509.Certificate:
    return certificate(issuer, changes.pop("key", KEY), **changes)


def check(*chain: x509.Certificate, roots: Sequence[x509.Certificate] = ()) -> None:
    anchors = tuple(roots) or (ROOT.certificate,)
    verify_chain(chain, anchors, leaf_id(chain[0]), NOW)


def test_good_chains_are_accepted() -> None:
    check(leaf())
    check(leaf(eku=[Eku.SERVER_AUTH, Eku.CLIENT_AUTH, Eku.CODE_SIGNING]))
    check(leaf(ca=None))
    check(leaf(), roots=[Authority("other").certificate, ROOT.certificate])
    middle = Authority("middle", ROOT, length=0)
    check(leaf(middle), middle.certificate)
    unnamed = Authority("unnamed", ROOT, uris=[])
    check(leaf(unnamed), unnamed.certificate)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"uris": []}, "names no workload"),
        ({"uris": [AGENT, AGENT]}, "more than one URI"),
        ({"uris": [AGENT, "https://a.example"]}, "more than one URI"),
        ({"uris": ["https://a.example"]}, "not a SPIFFE ID"),
        ({"uris": ["spiffe://test.example/a/"]}, "not a SPIFFE ID"),
        ({"uris": ["spiffe://test.example"]}, "names no workload"),
        ({"ca": True}, "an authority"),
        ({"use": None}, "not for digital signatures"),
        ({"use": usage("key_agreement")}, "not for digital signatures"),
        ({"use": usage("digital_signature", "key_cert_sign")}, "may sign others"),
        ({"use": usage("digital_signature", "crl_sign")}, "may sign others"),
        ({"use_critical": False}, "not marked critical"),
        ({"eku": [Eku.CLIENT_AUTH]}, "both ends"),
        ({"eku": [Eku.EMAIL_PROTECTION]}, "both ends"),
        ({"after": NOW}, "expired"),
        ({"before": NOW + DAY / 2}, "not yet valid"),
        ({"key": ec.generate_private_key(ec.SECP192R1()).public_key()}, "does not accept"),
        ({"key": ed25519.Ed25519PrivateKey.generate().public_key()}, "does not accept"),
        ({"more": [(x509.TLSFeature([x509.TLSFeatureType.status_request]), True)]}, "critical"),
        ({"uris": ["spiffe://test.example/" + "a" * 2048]}, "not a SPIFFE ID"),
    ],
)
def test_a_leaf_that_is_wrong_is_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(UnidentifiedError, match=match):
        check(leaf(**changes))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"ca": False}, "not an authority"),
        ({"ca": None}, "not an authority"),
        ({"use": usage("digital_signature")}, "may not sign others"),
        ({"use": None}, "may not sign others"),
        ({"uris": ["spiffe://other.example"]}, "id of somebody else"),
        ({"uris": ["spiffe://test.example/agent/b"]}, "id of somebody else"),
        ({"uris": ["https://a.example"]}, "no valid SPIFFE ID"),
        ({"after": NOW}, "expired"),
        (
            {
                "more": [
                    (
                        x509.NameConstraints(
                            [x509.UniformResourceIdentifier("other.example")], None
                        ),
                        True,
                    )
                ]
            },
            "not supported",
        ),
    ],
)
def test_an_authority_in_the_chain_that_is_wrong_is_refused(
    changes: dict[str, Any], match: str
) -> None:
    middle = Authority("middle", ROOT, **changes)
    with pytest.raises(UnidentifiedError, match=match):
        check(leaf(middle), middle.certificate)


def test_a_workload_cannot_issue_for_another() -> None:
    workload = Authority("workload", ROOT, ca=False, uris=[AGENT], use=usage("digital_signature"))
    with pytest.raises(UnidentifiedError, match="not an authority"):
        check(leaf(workload, uris=["spiffe://test.example/agent/b"]), workload.certificate)


def test_the_path_length_is_kept() -> None:
    short = Authority("short", length=0)
    middle = Authority("middle", short)
    with pytest.raises(UnidentifiedError, match="vouches"):
        check(leaf(middle), middle.certificate, roots=[short.certificate])
    check(leaf(short), roots=[short.certificate])


@pytest.mark.parametrize(
    "chain",
    [
        lambda: (leaf(Authority("stranger")),),
        lambda: (leaf(Authority("root")),),
        lambda: (leaf(), leaf()),
        lambda: (leaf(), Authority("middle", ROOT).certificate),
    ],
)
def test_a_chain_of_somebody_else_is_refused(
    chain: Callable[[], tuple[x509.Certificate, ...]],
) -> None:
    with pytest.raises(UnidentifiedError):
        check(*chain())


def test_an_anchor_that_has_expired_vouches_for_nobody() -> None:
    old = Authority("old", after=NOW)
    with pytest.raises(UnidentifiedError, match="vouches"):
        check(leaf(old), roots=[old.certificate])
