"""Opens those keys of Remit's own that the configuration says are kept elsewhere."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from remit.app.config import Loaded
from remit.evidence.ports import CheckpointKey
from remit.evidence.signer import NoteSigner
from remit.keystore.kept import KeptKey
from remit.keystore.ports import Algorithm, RemoteKey
from remit.model.errors import ConfigError, UnavailableError
from remit.model.record import Step
from remit.plugins import load_key

LOG = "[keys] log"
"""The setting, as messages and evidence name it."""


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """The keys, each None where it is a file of the state folder; and what was loaded for them."""

    log: CheckpointKey | None = None
    loaded: tuple[Step, ...] = ()


async def open_keys(loaded: Loaded) -> OwnKeys:
    """Open every key that is kept elsewhere. A start waits for no token that is away.

    Raises:
        ConfigError: a URI is wrong, no provider takes it, or the key is not there, or does not sign.
    """
    uri = loaded.config.keys.log
    if uri is None:
        return OwnKeys()
    key, step = load_key(LOG, uri, Algorithm.ED25519)
    try:
        kept = await asyncio.to_thread(KeptKey.open, key, Algorithm.ED25519, f"`{LOG}`")
    except UnavailableError as error:
        raise ConfigError(str(error)) from error
    return OwnKeys(kept, (step,))


def look_at_log_key(loaded: Loaded) -> str:
    """See that the log's key is where the configuration says it is kept; return its vkey.

    Raises:
        ConfigError: as :func:`open_keys`; or it is a file.
        UnavailableError: the token cannot be asked now.
    """
    key = _log_key(loaded)
    return NoteSigner(KeptKey.open(key, Algorithm.ED25519, f"`{LOG}`"), _origin(loaded)).vkey


def make_log_key(loaded: Loaded) -> str:
    """Make the log's key where the configuration says it is kept; return its vkey.

    Raises:
        ConfigError: it is a file, there is such a key already, or it cannot be made.
        UnavailableError: the token cannot be asked now.
    """
    KeptKey(_log_key(loaded), Algorithm.ED25519, f"`{LOG}`").make()
    return look_at_log_key(loaded)


def _log_key(loaded: Loaded) -> RemoteKey:
    uri = loaded.config.keys.log
    if uri is None:
        raise ConfigError(
            "the log's key is a file of the state folder, which `remit up` makes: to keep it "
            'elsewhere, write `log = "pkcs11:…"` under `[keys]`'
        )
    return load_key(LOG, uri, Algorithm.ED25519)[0]


def _origin(loaded: Loaded) -> str:
    return f"{loaded.config.authority.trust_domain}/log"
