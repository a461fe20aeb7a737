"""One key that is kept elsewhere, asked with a time-out, and held to its word.

The rules it enforces:

- A token that hangs holds up nobody longer than ``seconds``; while it hangs it is not asked again,
  so that no threads pile up behind it.
- The public half is read once, at the start, and every signature is checked against it: a token that
  was exchanged for another, or that is broken, signs nothing that anybody sees.
- Whatever a provider raises becomes one line without its text, which could hold a secret.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from remit.keystore.ports import Algorithm, RemoteKey
from remit.model.errors import ConfigError, UnavailableError

SECONDS = 5.0
"""How long a token may take over one thing."""
PROBE = b"remit: is this key there?\n"
"""What is signed to see that the key is there: no checkpoint, token or certificate starts so."""

PublicKey = Ed25519PublicKey | EllipticCurvePublicKey
_T = TypeVar("_T")


class KeptKey:
    """A key that is kept elsewhere. Make one with :meth:`open`; its methods block, in bounds.

    ``trouble`` is None where the last signature was one, else what was wrong.
    """

    def __init__(
        self, key: RemoteKey, algorithm: Algorithm, name: str, *, seconds: float = SECONDS
    ) -> None:
        self._key = key
        self._algorithm = algorithm
        self._name = name
        self._seconds = seconds
        self._turn = threading.Lock()
        self._public: PublicKey | None = None
        self.trouble: str | None = None

    @classmethod
    def open(
        cls, key: RemoteKey, algorithm: Algorithm, name: str, *, seconds: float = SECONDS
    ) -> KeptKey:
        """Ask for the public half, and see that the key signs.

        Args:
            key: the provider's.
            algorithm: what it has to sign with.
            name: what messages call it, as ``the log's key``.
            seconds: how long the token may take over one thing.

        Raises:
            ConfigError: there is no such key, it is of another kind, or it does not sign.
            UnavailableError: the token cannot be asked now.
        """
        kept = cls(key, algorithm, name, seconds=seconds)
        kept._public = kept._read(kept._ask(key.public_key))
        kept.check()
        return kept

    @property
    def public_key(self) -> PublicKey:
        """The public half."""
        if self._public is None:
            raise UnavailableError(f"{self._name} was not opened")
        return self._public

    @property
    def public_bytes(self) -> bytes:
        """The public half as it is usually written: 32 bytes, or a point on P-256."""
        if isinstance(self.public_key, Ed25519PublicKey):
            return self.public_key.public_bytes_raw()
        return self.public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def sign(self, message: bytes) -> bytes:
        """Return the signature of ``message``, as the algorithm writes it.

        Raises:
            UnavailableError: the token does not sign now, or signs with another key.
        """
        try:
            signature = self._ask(lambda: self._key.sign(message))
            self._hold(message, signature)
        except (ConfigError, UnavailableError) as error:
            self.trouble = str(error)
            # The key was there once: whatever is missing may come back.
            raise UnavailableError(str(error)) from error
        self.trouble = None
        return signature

    def check(self) -> None:
        """See that the key is there and signs.

        Raises:
            UnavailableError: as :meth:`sign`.
        """
        self.sign(PROBE)

    def make(self) -> PublicKey:
        """Make the key where it is kept, and return its public half.

        Raises:
            ConfigError: there is one already, or the token does not make one.
            UnavailableError: the token cannot be asked now.
        """
        return self._read(self._ask(self._key.make))

    def _hold(self, message: bytes, signature: bytes) -> None:
        public = self.public_key
        try:
            if isinstance(public, Ed25519PublicKey):
                public.verify(signature, message)
            else:
                public.verify(signature, message, ECDSA(hashes.SHA256()))
        except (InvalidSignature, ValueError, TypeError) as error:
            raise UnavailableError(
                f"{self._name}: what was signed does not verify: is another key there now?"
            ) from error

    def _read(self, der: bytes) -> PublicKey:
        try:
            public = load_der_public_key(der)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{self._name}: its public half cannot be read") from error
        if self._algorithm is Algorithm.ED25519 and isinstance(public, Ed25519PublicKey):
            return public
        if (
            self._algorithm is Algorithm.ES256
            and isinstance(public, EllipticCurvePublicKey)
            and isinstance(public.curve, SECP256R1)
        ):
            return public
        raise ConfigError(f"{self._name} has to be of the kind `{self._algorithm}`")

    def _ask(self, work: Callable[[], _T]) -> _T:
        """Do ``work`` on a thread of its own, one at a time.

        The thread is a daemon: one that a dead token holds for good does not hold up the end.
        """
        if not self._turn.acquire(timeout=self._seconds):
            raise self._silent()
        future: Future[_T] = Future()
        future.set_running_or_notify_cancel()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                future.set_exception(error)
            finally:
                self._turn.release()

        threading.Thread(target=run, name="remit-key", daemon=True).start()
        try:
            return future.result(self._seconds)
        except TimeoutError as error:
            if future.done():  # the provider's own
                raise UnavailableError(f"{self._name} cannot be used: TimeoutError") from error
            raise self._silent() from error
        except (ConfigError, UnavailableError) as error:
            raise type(error)(f"{self._name}: {error}") from error
        except Exception as error:  # noqa: BLE001 - a provider's, whose text may hold a secret
            raise UnavailableError(f"{self._name} cannot be used: {type(error).__name__}") from None

    def _silent(self) -> UnavailableError:
        return UnavailableError(
            f"{self._name}: nothing has answered for {self._seconds:g} seconds: look at where it is kept"
        )
