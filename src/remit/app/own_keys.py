"""Opens those keys of Remit's own that the configuration says are kept elsewhere, and watches them.

The log's is ``[keys] log``; the authorities of the brokers ``ssh`` and ``x509`` name theirs themselves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from remit.app.config import Loaded
from remit.evidence.signer import NoteSigner
from remit.keystore.kept import KeptKey
from remit.keystore.ports import Algorithm, RemoteKey
from remit.keystore.signing import AuthorityKey
from remit.model.errors import ConfigError, UnavailableError
from remit.model.record import Step
from remit.plugins import load_key

LOG = "`[keys] log`"
"""The setting, as messages and evidence name it."""
LOOK_SECONDS = 10.0
"""How often a key is asked whether it would sign."""
MAKE_SECONDS = 30.0
"""How long the making of a key may take: nobody waits for it, and half of it would be a lost key."""


class OwnKeys:
    """The keys that are kept elsewhere. ``loaded``: what was loaded for them, for evidence."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.log: KeptKey | None = None
        self.loaded: list[Step] = []
        self._authorities: list[KeptKey] = []
        self._monotonic = monotonic
        self._looked_at = monotonic()

    @classmethod
    async def open(cls, loaded: Loaded) -> OwnKeys:
        """Open the log's key. A start waits for no token that is away.

        Raises:
            ConfigError: a URI is wrong, no provider takes it, or the key is not there or does not
                sign.
        """
        keys = cls()
        uri = loaded.config.keys.log
        if uri is not None:
            keys.log = await asyncio.to_thread(keys._open, LOG, uri, Algorithm.ED25519)
        return keys

    def authority(self, where: str, uri: str) -> AuthorityKey:
        """Open the key of a broker's authority. At the start alone: it blocks, in bounds.

        Raises:
            ConfigError: as :meth:`open`.
        """
        kept = self._open(where, uri, Algorithm.ES256)
        self._authorities.append(kept)
        return AuthorityKey(kept)

    def health(self) -> str | None:
        """Return None where every authority's key signed when it was last asked, else what is wrong.

        The log's key is the evidence's to tell of.
        """
        return next((key.trouble for key in self._authorities if key.trouble is not None), None)

    async def look(self) -> None:
        """Ask every authority's key whether it would sign, where it is time to."""
        if self._monotonic() - self._looked_at < LOOK_SECONDS and self.health() is None:
            return
        self._looked_at = self._monotonic()
        await asyncio.gather(*(asyncio.to_thread(_asked, key) for key in self._authorities))

    def _open(self, where: str, uri: str, algorithm: Algorithm) -> KeptKey:
        key, step = load_key(where, uri, algorithm)
        try:
            kept = KeptKey.open(key, algorithm, where)
        except UnavailableError as error:
            raise ConfigError(str(error)) from error
        self.loaded.append(step)
        return kept


def _asked(key: KeptKey) -> None:
    try:
        key.check()
    except UnavailableError:
        return  # it is the key's trouble now, and `health` tells


def make_key(loaded: Loaded, which: str) -> str:
    """Make a key where the configuration says it is kept; return its public half as people use it.

    Args:
        loaded: the configuration.
        which: ``log``, or ``broker.NAME``.

    Raises:
        ConfigError: it is a file, there is such a key already, or it cannot be made.
        UnavailableError: the token cannot be asked now.
    """
    where, key, algorithm = _named(loaded, which)
    KeptKey(key, algorithm, where, seconds=MAKE_SECONDS).make()
    return look_at_key(loaded, which)


def look_at_key(loaded: Loaded, which: str) -> str:
    """See that a key is where the configuration says it is kept; return its public half.

    Raises:
        ConfigError: it is not there, or is a file.
        UnavailableError: the token cannot be asked now.
    """
    where, key, algorithm = _named(loaded, which)
    kept = KeptKey.open(key, algorithm, where)
    if algorithm is Algorithm.ED25519:
        return NoteSigner(kept, f"{loaded.config.authority.trust_domain}/log").vkey
    return kept.public_bytes.hex()


def _named(loaded: Loaded, which: str) -> tuple[str, RemoteKey, Algorithm]:
    if which == "log":
        where, uri, algorithm = LOG, loaded.config.keys.log, Algorithm.ED25519
    else:
        name = which.removeprefix("broker.")
        if name == which or name not in loaded.config.brokers:
            raise ConfigError("a key is `log`, or `broker.NAME` of a broker that is configured")
        where, algorithm = f"`[broker.{name}]`, `ca_key`", Algorithm.ES256
        uri = loaded.config.brokers[name].get("ca_key")
    if not isinstance(uri, str):
        raise ConfigError(
            f'{where} names no key that is kept elsewhere: write a URI there, as "pkcs11:…" or "awskms:…"'
        )
    return where, load_key(where, uri, algorithm)[0], algorithm
