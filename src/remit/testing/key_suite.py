"""What every key of Remit's own has to hold, wherever it lies.

Subclass a suite in a test module and give it its fixture; pytest collects the cases.

- :class:`KeyProviderSuite` is for a provider of keys, and wants a ``shelf``.
- :class:`CheckpointKeySuite` is for a key that signs the log, and wants a ``key``: a provider's is
  wrapped with :class:`remit.keystore.kept.KeptKey`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Protocol

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from remit.evidence.ports import CheckpointKey
from remit.evidence.signer import NoteSigner
from remit.keystore.kept import KeptKey
from remit.keystore.ports import LONGEST_BYTES, Algorithm, RemoteKey
from remit.model.errors import ConfigError, UnavailableError
from remit.proof.checkpoint import open_checkpoint
from remit.proof.merkle import HASH_BYTES
from remit.proof.note import Verifier

_ORIGIN = "suite.example/log"


class CheckpointKeySuite:
    """The cases."""

    def test_what_it_signs_verifies_by_its_public_half(self, key: CheckpointKey) -> None:
        """Short, binary and long messages alike."""
        public = Ed25519PublicKey.from_public_bytes(key.public_bytes)
        for message in (b"a", bytes(range(256)), b"x" * LONGEST_BYTES):
            public.verify(key.sign(message), message)

    def test_it_signs_as_rfc_8032_says_the_same_each_time(self, key: CheckpointKey) -> None:
        """A checkpoint that is signed twice has the same bytes: no fork, no randomness to fail."""
        assert key.sign(b"once") == key.sign(b"once") != key.sign(b"twice")

    def test_it_stays_the_same_key_and_says_that_it_is_there(self, key: CheckpointKey) -> None:
        """A look changes nothing."""
        before = key.public_bytes
        key.check()
        assert key.public_bytes == before

    def test_a_checkpoint_of_it_opens_with_the_vkey_alone(self, key: CheckpointKey) -> None:
        """An outsider has nothing else."""
        signer = NoteSigner(key, _ORIGIN)
        note = signer.sign(7, bytes(HASH_BYTES))
        opened = open_checkpoint(note, [Verifier.parse(signer.vkey)], origin=_ORIGIN)
        assert opened.checkpoint.size == 7  # noqa: PLR2004 - as above

    def test_threads_may_ask_at_once(self, key: CheckpointKey) -> None:
        """Each gets the signature of its own message."""
        public = Ed25519PublicKey.from_public_bytes(key.public_bytes)
        messages = [b"message %d" % number for number in range(24)]
        with ThreadPoolExecutor(4) as threads:
            for message, signature in zip(messages, threads.map(key.sign, messages), strict=True):
                public.verify(signature, message)


class Shelf(Protocol):
    """A place of the provider's for keys, with none of these names in it yet."""

    algorithms: Sequence[Algorithm]
    """What it can hold."""
    secrets: Sequence[str]
    """What opens it: no message may hold one."""

    def key(self, name: str, algorithm: Algorithm) -> RemoteKey:
        """Return the key of a name, as the provider gives it for a URI. It makes nothing."""
        ...

    def take_away(self) -> None:
        """Make it a place that nobody can reach."""
        ...

    def put_back(self) -> None:
        """Let it be reached again."""
        ...


class KeyProviderSuite:
    """The cases."""

    def test_a_key_that_was_not_made_is_not_there(self, shelf: Shelf) -> None:
        """Nothing is made by asking for it, and what is said tells no secret."""
        for algorithm in shelf.algorithms:
            key = shelf.key("none", algorithm)
            for ask in (key.public_key, partial(key.sign, b"x"), key.public_key):
                _refused(ask, ConfigError, shelf)

    def test_a_key_is_made_once_and_is_the_same_for_everybody(self, shelf: Shelf) -> None:
        """Who asks for it again, by an object of his own, gets what was made."""
        for algorithm in shelf.algorithms:
            key = shelf.key(f"own-{algorithm}", algorithm)
            made = key.make()
            _refused(key.make, ConfigError, shelf)
            assert key.public_key() == made
            assert shelf.key(f"own-{algorithm}", algorithm).public_key() == made

    def test_what_it_signs_verifies(self, shelf: Shelf) -> None:
        """Of any length that the port promises; ES256 of any at all."""
        for algorithm in shelf.algorithms:
            key = shelf.key(f"signs-{algorithm}", algorithm)
            public = load_der_public_key(key.make())
            for message in (b"a", bytes(range(256)), b"x" * LONGEST_BYTES):
                _verify(public, key.sign(message), message)
            for message in (b"", b"x" * (LONGEST_BYTES + 1), b"x" * 20_000):
                if isinstance(public, EllipticCurvePublicKey):
                    _verify(public, key.sign(message), message)
                else:  # it may, and if it does it signs all of it
                    with suppress(ConfigError):
                        _verify(public, key.sign(message), message)
            assert shelf.key(f"more-{algorithm}", algorithm).make() != key.public_key()

    def test_a_key_of_another_kind_is_refused(self, shelf: Shelf) -> None:
        """It never signs in a way that was not asked for."""
        for algorithm in shelf.algorithms:
            other = next(each for each in Algorithm if each is not algorithm)
            shelf.key(f"kind-{algorithm}", algorithm).make()
            key = shelf.key(f"kind-{algorithm}", other)
            _refused(partial(KeptKey.open, key, other, "key"), ConfigError, shelf)

    def test_a_place_that_is_away_says_so_and_comes_back_by_itself(self, shelf: Shelf) -> None:
        """The object that was there before finds it again."""
        algorithm = shelf.algorithms[0]
        key = shelf.key("away", algorithm)
        public = key.make()
        shelf.take_away()
        for ask in (key.public_key, partial(key.sign, b"x")):
            _refused(ask, UnavailableError, shelf)
        shelf.put_back()
        assert key.public_key() == public
        _verify(load_der_public_key(public), key.sign(b"x"), b"x")


def _verify(public: object, signature: bytes, message: bytes) -> None:
    if isinstance(public, Ed25519PublicKey):
        public.verify(signature, message)
    else:
        assert isinstance(public, EllipticCurvePublicKey)
        assert isinstance(public.curve, SECP256R1)
        public.verify(signature, message, ECDSA(hashes.SHA256()))


def _refused(ask: Callable[[], object], kind: type[Exception], shelf: Shelf) -> None:
    with pytest.raises(kind) as refused:
        ask()
    said = str(refused.value)
    assert said
    assert "\n" not in said
    assert not [secret for secret in shelf.secrets if secret in said]
