"""Cases of go-spiffe: ids, bundles and X509-SVIDs."""

from __future__ import annotations

import json
import re

import pytest
from external import cases

from remit.identity import x509 as certificates
from remit.identity.bundle import parse_bundle
from remit.model.errors import InputError, UnidentifiedError
from remit.model.subject import SpiffeId


def texts() -> dict[str, str]:
    return json.loads(cases("spiffe/testdata.json").read_text())


def chain(text: str) -> bytes:
    blocks = re.findall(
        r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", text, re.DOTALL
    )
    return "".join(blocks).encode()


def test_ids_are_told_apart_as_go_spiffe_does() -> None:
    ids = json.loads(cases("spiffe/spiffe_ids.json").read_text())
    for text in (*ids["valid"], *ids["charset_valid"]):
        assert str(SpiffeId.parse(text)) == text
    for text in (*ids["invalid"], *ids["charset_invalid"]):
        with pytest.raises(InputError):
            SpiffeId.parse(text)


@pytest.mark.parametrize(
    ("name", "authorities", "keys"),
    [
        ("valid_1", 1, 1),
        ("valid_2", 1, 6),
        ("multiple_x509", None, None),
        ("valid_with_wit", 1, 2),
        ("missing_kid", None, None),
        ("no_keys", None, None),
    ],
)
def test_bundles_are_read_as_go_spiffe_does(
    name: str, authorities: int | None, keys: int | None
) -> None:
    data = texts()[f"bundle/spiffebundle/testdata/spiffebundle_{name}.json"].encode()
    if authorities is None:
        with pytest.raises(InputError):
            parse_bundle("domain.test", data)
        return
    bundle = parse_bundle("domain.test", data)
    assert len(bundle.authorities) == authorities
    assert len(bundle.jwt_keys) == keys


def test_an_svid_that_go_spiffe_takes_has_a_valid_leaf() -> None:
    found = {name: text for name, text in texts().items() if "/good-" in name}
    assert len(found) == 4
    for name, text in found.items():
        loaded = certificates.load_chain(chain(text))
        spiffe_id = certificates.leaf_id(loaded[0])
        assert spiffe_id.path, name
        for signing in loaded[1:]:
            certificates.check_signing(signing, spiffe_id.trust_domain)


def test_an_svid_that_go_spiffe_refuses_is_refused() -> None:
    found = {name: text for name, text in texts().items() if "/wrong-" in name}
    assert len(found) == 7
    for name, text in found.items():
        loaded = certificates.load_chain(chain(text))
        with pytest.raises(UnidentifiedError):  # noqa: PT012 - either step may refuse
            spiffe_id = certificates.leaf_id(loaded[0])
            for signing in loaded[1:]:
                certificates.check_signing(signing, spiffe_id.trust_domain)
            pytest.fail(f"{name} was accepted")


def test_a_corrupt_certificate_is_refused() -> None:
    found = [text for name, text in texts().items() if "corrupt" in name or "not-pem" in name]
    assert found
    for text in found:
        with pytest.raises(UnidentifiedError):
            certificates.load_chain(text.encode())
