from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from joserfc.jwk import ECKey

from remit.identity import jose
from remit.identity.federation import Federation
from remit.identity.keyring import FILE
from remit.identity.trust_domain import (
    MAX_JWT_SVID_SECONDS,
    MAX_X509_SVID_SECONDS,
    TrustDomain,
)
from remit.identity.validation import SvidValidator
from remit.model.errors import ConfigError, InputError, UnidentifiedError
from remit.model.subject import SpiffeId
from remit.testing.identity import ManualClock, base64url, trust_domain

AGENT = SpiffeId("test.example", "/agent/a")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def authority(tmp_path: Path, clock: ManualClock) -> TrustDomain:
    return trust_domain(tmp_path, clock=clock)


def validator(authority: TrustDomain, clock: ManualClock) -> SvidValidator:
    return SvidValidator(Federation(authority, clock=clock), clock=clock)


def test_keys_are_readable_by_their_owner_alone(tmp_path: Path, authority: TrustDomain) -> None:
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert [p.name for p in (tmp_path / "keys").iterdir()] == [FILE]
    assert (tmp_path / "keys" / FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o700, 0o666])
def test_a_key_file_open_to_others_is_refused_and_left_alone(
    tmp_path: Path, authority: TrustDomain, clock: ManualClock, mode: int
) -> None:
    path = tmp_path / "keys" / FILE
    before = path.read_bytes()
    path.chmod(mode)
    with pytest.raises(ConfigError, match="mode"):
        trust_domain(tmp_path, clock=clock)
    assert path.read_bytes() == before
    assert path.stat().st_mode & 0o777 == mode


def test_a_key_folder_open_to_others_is_refused(
    tmp_path: Path, authority: TrustDomain, clock: ManualClock
) -> None:
    (tmp_path / "keys").chmod(0o750)
    with pytest.raises(ConfigError, match="mode 0750"):
        trust_domain(tmp_path, clock=clock)


def test_keys_of_another_user_are_refused(
    tmp_path: Path, authority: TrustDomain, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(ConfigError, match="another user"):
        trust_domain(tmp_path, clock=clock)


def test_a_symbolic_link_in_place_of_the_key_file_is_refused(
    tmp_path: Path, authority: TrustDomain, clock: ManualClock
) -> None:
    path = tmp_path / "keys" / FILE
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        trust_domain(tmp_path, clock=clock)


def test_a_symbolic_link_in_place_of_the_key_folder_is_refused(
    tmp_path: Path, authority: TrustDomain, clock: ManualClock
) -> None:
    (tmp_path / "keys").rename(tmp_path / "real")
    (tmp_path / "keys").symlink_to(tmp_path / "real")
    with pytest.raises(ConfigError, match="folder of its own"):
        trust_domain(tmp_path, clock=clock)


def test_a_damaged_key_file_is_refused_without_showing_it(
    tmp_path: Path, authority: TrustDomain, clock: ManualClock
) -> None:
    path = tmp_path / "keys" / FILE
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ConfigError, match="damaged") as caught:
        trust_domain(tmp_path, clock=clock)
    assert caught.value.__cause__ is None
    assert "PRIVATE" not in str(caught.value)


def test_keys_of_another_trust_domain_are_refused(
    tmp_path: Path, authority: TrustDomain, clock: ManualClock
) -> None:
    with pytest.raises(ConfigError, match=r"not of `other.example`"):
        trust_domain(tmp_path, clock=clock, name="other.example")


@pytest.mark.parametrize("name", ["", "UPPER", "with space", "a/b", "spiffe://a"])
def test_an_invalid_name_creates_nothing(tmp_path: Path, clock: ManualClock, name: str) -> None:
    with pytest.raises(ConfigError, match="not a trust domain"):
        trust_domain(tmp_path, clock=clock, name=name)
    assert not (tmp_path / "keys").exists()


def test_of_processes_that_start_at_once_one_makes_the_keys(
    tmp_path: Path, clock: ManualClock
) -> None:
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: trust_domain(tmp_path, clock=clock), range(8)))
    assert len({one.bundle() for one in opened}) == 1
    assert [p.name for p in (tmp_path / "keys").iterdir()] == [FILE]


def test_a_jwt_svid_is_as_the_standard_has_it(authority: TrustDomain, clock: ManualClock) -> None:
    parsed = jose.parse(authority.issue_jwt_svid(AGENT, ["remit"], seconds=60))
    assert parsed.header.keys() == {"alg", "kid", "typ"}
    assert (parsed.algorithm, parsed.header["typ"]) == ("ES256", "JWT")
    assert parsed.claims() == {
        "sub": "spiffe://test.example/agent/a",
        "aud": ["remit"],
        "iat": int(clock().timestamp()),
        "exp": int(clock().timestamp()) + 60,
    }


@pytest.mark.parametrize(
    ("spiffe_id", "audiences", "seconds", "extra"),
    [
        (SpiffeId("other.example", "/agent/a"), ["remit"], 60, None),
        (SpiffeId("test.example"), ["remit"], 60, None),
        (AGENT, [], 60, None),
        (AGENT, [""], 60, None),
        (AGENT, "remit", 60, None),
        (AGENT, ["a"] * 17, 60, None),
        (AGENT, ["remit"], 0, None),
        (AGENT, ["remit"], -1, None),
        (AGENT, ["remit"], MAX_JWT_SVID_SECONDS + 1, None),
        (AGENT, ["remit"], 60, {"sub": "spiffe://test.example/agent/b"}),
        (AGENT, ["remit"], 60, {"exp": 2**40}),
    ],
)
def test_a_jwt_svid_that_the_standard_forbids_is_not_issued(
    authority: TrustDomain, spiffe_id: SpiffeId, audiences: list[str], seconds: int, extra: object
) -> None:
    with pytest.raises(InputError):
        authority.issue_jwt_svid(spiffe_id, audiences, seconds=seconds, extra=extra)  # type: ignore[arg-type]


def test_an_x509_svid_is_as_the_standard_has_it(authority: TrustDomain, clock: ManualClock) -> None:
    svid = authority.issue_x509_svid(AGENT, seconds=600)
    leaf = x509.load_der_x509_certificate(svid.certificates[0])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [type(n) for n in names] == [x509.UniformResourceIdentifier]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [str(AGENT)]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert not usage.value.crl_sign
    key = serialization.load_der_private_key(svid.private_key, None)
    assert key.public_key() == leaf.public_key()
    assert svid.expires_at == leaf.not_valid_after_utc
    assert "private_key" not in repr(svid)
    for authority_key in json.loads(authority.bundle())["keys"]:
        if authority_key["use"] == "x509-svid":
            assert len(authority_key["x5c"]) == 1


def test_the_next_key_is_published_before_it_signs(
    authority: TrustDomain, clock: ManualClock
) -> None:
    before = {k["kid"] for k in json.loads(authority.bundle())["keys"] if k["use"] == "jwt-svid"}
    authority.rotate()
    kid = jose.parse(authority.issue_jwt_svid(AGENT, ["remit"])).kid
    assert kid in before


def test_every_key_is_named_by_its_thumbprint(authority: TrustDomain) -> None:
    for _ in range(2):
        jwts = [k for k in json.loads(authority.bundle())["keys"] if k["use"] == "jwt-svid"]
        for jwk in (*jwts, *authority.jwks()["keys"]):
            point = {name: jwk[name] for name in ("kty", "crv", "x", "y")}
            assert jwk["kid"] == ECKey.import_key(point).thumbprint()
        authority.rotate()


def test_a_stored_key_that_is_not_named_by_its_thumbprint_is_refused(
    tmp_path: Path, authority: TrustDomain, clock: ManualClock
) -> None:
    path = tmp_path / "keys" / FILE
    kept = json.loads(path.read_bytes())
    kept["signing"]["next"]["kid"] = "A" * 43
    path.write_text(json.dumps(kept))
    with pytest.raises(ConfigError, match=r"not named by its thumbprint.*restore it") as caught:
        trust_domain(tmp_path, clock=clock)
    assert "\n" not in str(caught.value)


def test_rotation_overlaps_and_survives_a_restart(
    tmp_path: Path, authority: TrustDomain, clock: ManualClock
) -> None:
    token = authority.issue_jwt_svid(AGENT, ["remit"], seconds=MAX_JWT_SVID_SECONDS)
    chain = b"".join(authority.issue_x509_svid(AGENT, seconds=MAX_X509_SVID_SECONDS).certificates)
    mandate = authority.sign({"task": "t"}, typ="x+jwt")
    sequence = authority.sequence
    authority.rotate()
    again = trust_domain(tmp_path, clock=clock)
    assert again.sequence == sequence + 1
    assert again.bundle() == authority.bundle()
    svids = validator(again, clock)
    assert svids.jwt(token, "remit").spiffe_id == AGENT
    assert svids.certificate(chain).spiffe_id == AGENT
    assert again.verify(mandate, typ="x+jwt") == {"task": "t"}


def test_a_retired_key_leaves_the_bundle_when_nothing_it_signed_is_left(
    authority: TrustDomain, clock: ManualClock
) -> None:
    pushed: list[int] = []
    kid = jose.parse(authority.issue_jwt_svid(AGENT, ["remit"])).kid
    mandate = authority.sign({"task": "t"}, typ="x+jwt")
    authority.rotate()
    authority.listen(lambda: pushed.append(authority.sequence))
    assert kid in authority.parsed_bundle().jwt_keys
    assert len(authority.parsed_bundle().authorities) == 3
    clock.move(MAX_JWT_SVID_SECONDS)
    assert kid not in authority.parsed_bundle().jwt_keys
    assert len(authority.parsed_bundle().authorities) == 3
    clock.move(MAX_X509_SVID_SECONDS)
    assert len(authority.parsed_bundle().authorities) == 2
    assert pushed == [3, 4]
    assert authority.verify(mandate, typ="x+jwt") == {"task": "t"}
    assert len(authority.jwks()["keys"]) == 3


def test_a_retired_key_has_no_private_half_on_disk(tmp_path: Path, authority: TrustDomain) -> None:
    authority.rotate()
    rings = json.loads((tmp_path / "keys" / FILE).read_bytes())
    for ring in ("jwt", "x509", "signing"):
        assert [key["private"] for key in rings[ring]["retired"]] == [None]


def test_compromised_keys_are_gone_at_once(authority: TrustDomain, clock: ManualClock) -> None:
    svids = validator(authority, clock)
    token = authority.issue_jwt_svid(AGENT, ["remit"])
    mandate = authority.sign({"task": "t"}, typ="x+jwt")
    chain = authority.issue_x509_svid(AGENT).certificates[0]
    assert svids.jwt(token, "remit")
    assert svids.certificate(chain)
    assert authority.verify(mandate, typ="x+jwt")
    authority.rotate(compromised=True)
    assert authority.sequence == 2
    for check in (
        lambda: svids.jwt(token, "remit"),
        lambda: svids.certificate(chain),
        lambda: authority.verify(mandate, typ="x+jwt"),
    ):
        with pytest.raises(UnidentifiedError):
            check()


def test_a_rotation_that_cannot_be_written_changes_nothing(
    tmp_path: Path, authority: TrustDomain, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, pushed = authority.bundle(), []
    authority.listen(lambda: pushed.append(1))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="cannot be written"):
        authority.rotate()
    monkeypatch.undo()
    assert authority.bundle() == bundle
    assert pushed == []
    assert [p.name for p in (tmp_path / "keys").iterdir()] == [FILE]


def test_listeners_hear_of_rotation_and_one_that_fails_stops_nobody(
    authority: TrustDomain,
) -> None:
    heard: list[int] = []

    def broken() -> None:
        raise RuntimeError("no")

    authority.listen(broken)
    end = authority.listen(lambda: heard.append(authority.sequence))
    authority.rotate()
    end()
    end()
    authority.rotate()
    assert heard == [2]


def test_what_is_signed_for_one_use_verifies_for_no_other(
    authority: TrustDomain, clock: ManualClock
) -> None:
    token = authority.sign({"task": "t"}, typ="remit-task+jwt")
    with pytest.raises(UnidentifiedError, match="not a `remit-mandate"):
        authority.verify(token, typ="remit-mandate+jwt")
    with pytest.raises(UnidentifiedError, match="not signed by this authority"):
        authority.verify(authority.issue_jwt_svid(AGENT, ["remit"]), typ="JWT")
    signed = authority.sign(
        {"sub": str(AGENT), "aud": ["remit"], "exp": int(clock().timestamp()) + 60}, typ="JWT"
    )
    with pytest.raises(UnidentifiedError, match="no key that signed"):
        validator(authority, clock).jwt(signed, "remit")


def test_a_task_token_expires_to_the_second_cached_or_not(
    authority: TrustDomain, clock: ManualClock
) -> None:
    now = int(clock().timestamp())
    token = authority.sign({"exp": now + 10}, typ="x+jwt")
    early = authority.sign({"nbf": now + 5}, typ="x+jwt")
    assert authority.verify(token, typ="x+jwt")
    with pytest.raises(UnidentifiedError, match="not valid yet"):
        authority.verify(early, typ="x+jwt")
    clock.move(10)
    with pytest.raises(UnidentifiedError, match="expired"):
        authority.verify(token, typ="x+jwt")


def test_a_changed_task_token_is_refused(authority: TrustDomain) -> None:
    head, _, signature = authority.sign({"task": "mine"}, typ="x+jwt").split(".")
    forged = ".".join((head, base64url(b'{"task":"yours"}'), signature))
    with pytest.raises(UnidentifiedError, match="signature does not hold"):
        authority.verify(forged, typ="x+jwt")
