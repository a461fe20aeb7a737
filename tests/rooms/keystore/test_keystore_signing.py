"""A key that is kept elsewhere signs certificates, lists and SSH certificates, and nothing else."""

from __future__ import annotations

import copy

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDH, ECDSA
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from remit.keystore.kept import KeptKey
from remit.keystore.ports import Algorithm
from remit.keystore.signing import AuthorityKey
from remit.model.errors import BrokerError, ConfigError
from remit.testing.keys import MemoryKey


def authority(key: MemoryKey) -> AuthorityKey:
    return AuthorityKey(KeptKey.open(key, Algorithm.ES256, "the authority's key"))


def test_it_signs_sha_256_alone():
    found = authority(MemoryKey(Algorithm.ES256))
    found.public_key().verify(
        found.sign(b"x", ECDSA(hashes.SHA256())), b"x", ECDSA(hashes.SHA256())
    )
    with pytest.raises(UnsupportedAlgorithm):
        found.sign(b"x", ECDSA(hashes.SHA1()))
    assert (found.curve.name, found.key_size) == ("secp256r1", 256)


def test_it_cannot_be_taken_out_nor_exchanged():
    found = authority(MemoryKey(Algorithm.ES256))
    with pytest.raises(UnsupportedAlgorithm):
        found.private_numbers()
    with pytest.raises(UnsupportedAlgorithm):
        found.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(UnsupportedAlgorithm):
        found.exchange(ECDH(), found.public_key())
    assert copy.copy(found) is copy.deepcopy(found) is found


def test_a_key_that_is_away_signs_nothing_and_is_a_brokers_error():
    key = MemoryKey(Algorithm.ES256)
    found = authority(key)
    key.away = True
    with pytest.raises(BrokerError, match="nothing can be signed: the authority's key: there is"):
        found.sign(b"x", ECDSA(hashes.SHA256()))
    key.away = False
    assert found.sign(b"x", ECDSA(hashes.SHA256()))


def test_a_key_of_another_kind_is_no_authoritys():
    with pytest.raises(ConfigError, match="on P-256"):
        AuthorityKey(KeptKey.open(MemoryKey(), Algorithm.ED25519, "the authority's key"))
