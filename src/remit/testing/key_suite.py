"""What every key that signs the log's checkpoints has to hold, wherever it lies.

Subclass :class:`CheckpointKeySuite` in a test module and give it a fixture ``key``; pytest collects
the cases. For authors of providers too: wrap yours with :class:`remit.keystore.kept.KeptKey`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from remit.evidence.ports import CheckpointKey
from remit.evidence.signer import NoteSigner
from remit.proof.checkpoint import open_checkpoint
from remit.proof.merkle import HASH_BYTES
from remit.proof.note import Verifier

_ORIGIN = "suite.example/log"


class CheckpointKeySuite:
    """The cases."""

    def test_what_it_signs_verifies_by_its_public_half(self, key: CheckpointKey) -> None:
        """Empty, short, binary and long messages alike."""
        public = Ed25519PublicKey.from_public_bytes(key.public_bytes)
        for message in (b"", b"a", bytes(range(256)), b"x" * 20_000):
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
