"""An authority whose key is kept elsewhere: what it signs holds, and without it nothing is minted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from certificate_house import INSTALLATION, surroundings
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_public_identity

from remit.credentials.brokers.ssh.broker import SshBroker
from remit.credentials.brokers.x509.broker import X509Broker
from remit.credentials.port import Broker, Surroundings
from remit.keystore.kept import KeptKey
from remit.keystore.ports import Algorithm
from remit.keystore.signing import AuthorityKey
from remit.model.errors import BrokerError, ConfigError, NotMintedError
from remit.testing.broker_suite import Lab
from remit.testing.keys import MemoryKey

URI = "memory:ca"
KINDS: dict[str, tuple[Callable[..., Broker], str, dict[str, Any]]] = {
    "ssh": (SshBroker, "krl", {"principals": ["deploy"]}),
    "x509": (X509Broker, "crl", {}),
}


class Seat:
    """A target of the suite's Lab: one broker whose key is a :class:`MemoryKey`."""

    installation = INSTALLATION
    names_are_ours = True

    def __init__(self, kind: str, folder: Path) -> None:
        (folder / "lists").mkdir(exist_ok=True)
        self.kind, self.folder = kind, folder
        self.key = MemoryKey(Algorithm.ES256)
        self.make, self.list, self.grant = KINDS[kind]
        self.broker = self.made()
        self.lab = Lab(self)  # type: ignore[arg-type]

    def made(self, **more: Any) -> Broker:
        table = {"ca_key": URI, self.list: {"file": f"lists/{self.kind}"}, **more}
        return self.make("own", table, self.around())

    def around(self) -> Surroundings:
        def opened(where: str, uri: str) -> AuthorityKey:
            assert uri == URI
            return AuthorityKey(KeptKey.open(self.key, Algorithm.ES256, where))

        return replace(surroundings(self.folder), open_key=opened)


@pytest.fixture(params=KINDS)
def seat(request: pytest.FixtureRequest, tmp_path: Path) -> Seat:
    return Seat(request.param, tmp_path)


async def test_what_it_signs_is_its_authoritys(seat: Seat):
    _, credential = await seat.lab.issue()
    text = credential.values["certificate"].encode()
    if seat.kind == "ssh":
        found = load_ssh_public_identity(text)
        found.verify_cert_signature()  # type: ignore[union-attr]
    else:
        authority = x509.load_pem_x509_certificate(
            (seat.folder / "state/brokers/own.pem").read_bytes()
        )
        x509.load_pem_x509_certificate(text).verify_directly_issued_by(authority)
        revoked = x509.load_pem_x509_crl((seat.folder / "lists/x509").read_bytes())
        assert revoked.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    assert not (seat.folder / "state/brokers/own.key").exists()


async def test_a_key_that_is_away_mints_nothing_and_comes_back_by_itself(seat: Seat):
    await seat.lab.issue()
    seat.key.away = True
    with pytest.raises(NotMintedError, match="nothing can be signed"):
        await seat.lab.issue()
    seat.key.away = False
    await seat.lab.issue()


async def test_a_list_that_cannot_be_signed_is_no_revocation(tmp_path: Path):
    seat = Seat("x509", tmp_path)
    lease, credential = await seat.lab.issue()
    seat.key.away = True
    with pytest.raises(BrokerError, match="nothing can be signed"):
        await seat.lab.revoke(lease, credential)
    seat.key.away = False
    await seat.lab.revoke(lease, credential)
    listed = x509.load_pem_x509_crl((tmp_path / "lists/x509").read_bytes())
    assert len(listed) == 1


async def test_a_key_that_is_slow_holds_up_nobody_else(seat: Seat):
    await seat.lab.issue()
    seat.key.answers.clear()
    minting = asyncio.create_task(seat.lab.issue())
    asked = seat.key.asked
    async with asyncio.timeout(4):
        while seat.key.asked == asked:  # noqa: ASYNC110 - the key is asked on a thread
            await asyncio.sleep(0.01)
    assert not minting.done()
    seat.key.answers.set()
    await minting


def test_two_keys_are_not_one(seat: Seat):
    with pytest.raises(ConfigError, match="not both"):
        seat.made(ca_key_file="ca.key")


def test_where_nothing_opens_keys_a_uri_is_refused(seat: Seat):
    with pytest.raises(ConfigError, match="kept elsewhere"):
        seat.make("own", {"ca_key": URI}, surroundings(seat.folder))


def test_its_certificate_is_kept_and_fits_no_other_key(tmp_path: Path):
    seat = Seat("x509", tmp_path)
    before = (tmp_path / "state/brokers/own.pem").read_bytes()
    seat.made()
    assert (tmp_path / "state/brokers/own.pem").read_bytes() == before
    seat.key.exchange()
    with pytest.raises(ConfigError, match="belongs to another key"):
        seat.made()
