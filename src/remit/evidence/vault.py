"""What is sensitive, kept apart: sealed under a key per task, opened only for who may, erasable.

The rules it keeps:

- A payload is sealed with AES-256-GCM under a key of its task. The salt that its digest needs is
  sealed with it: with the salt in the clear, an erased payload of few words could be guessed.
- The record's id and the payload's name are authenticated, so a payload cannot be moved.
- Task keys are wrapped (RFC 3394) under the vault's own key, which lies in a file of its own.
- A key is stored with the payloads it sealed, in the same transaction. A task has one key for each
  run of the authority that sealed something for it, so that no run has to load keys before it can
  seal.
- Erasing a task's keys leaves its records, their digests and the log as they were.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from remit.evidence.ports import SealedPayload, VaultStore
from remit.model.errors import ConfigError, NotFoundError, ProofError

KEY_BYTES = 32
SALT_BYTES = 16
NONCE_BYTES = 12
NAME_BYTES = 12
OWN = "authority"
"""The owner of payloads whose records belong to no task."""
MAX_KEYS = 10_000
"""Task keys kept in memory; a task whose key was dropped simply gets another one."""


@dataclass(frozen=True, slots=True)
class Opened:
    """One payload in the clear, with the salt that its digest was made with."""

    name: str
    salt: bytes = field(repr=False)
    data: bytes = field(repr=False)

    @property
    def digest(self) -> str:
        """What its record must say of it."""
        return salted_digest(self.salt, self.data)


@dataclass(frozen=True, slots=True)
class _Key:
    name: str
    wrapped: bytes
    cipher: AESGCM


def salted_digest(salt: bytes, data: bytes) -> str:
    """Return ``sha256:<hex>`` over salt and bytes, as a record holds it."""
    return f"sha256:{hashlib.sha256(salt + data).hexdigest()}"


class Vault:
    """Seals payloads as they are staged, and opens them for display and export."""

    def __init__(
        self,
        store: VaultStore,
        master: bytes,
        *,
        randomness: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        if len(master) != KEY_BYTES:
            raise ConfigError(f"the vault's key has to be {KEY_BYTES} bytes")
        self._store = store
        self._master = master
        self._randomness = randomness
        self._keys: OrderedDict[str, _Key] = OrderedDict()

    async def check(self) -> None:
        """Make sure that this vault's key is the one that wrapped what the store holds.

        Raises:
            ConfigError: it is another.
        """
        wrapped = await self._store.wrapped_key()
        if wrapped is None:
            return
        try:
            aes_key_unwrap(self._master, wrapped)
        except (InvalidUnwrap, ValueError) as error:
            raise ConfigError(
                "the vault's key is not the one that sealed what is stored: restore its file"
            ) from error

    def seal(
        self, record: str, task: str | None, name: str, data: bytes
    ) -> tuple[SealedPayload, str]:
        """Return a payload sealed under its task's key, and its salted digest."""
        owner = task or OWN
        key = self._key(owner)
        salt = self._randomness(SALT_BYTES)
        nonce = self._randomness(NONCE_BYTES)
        sealed = nonce + key.cipher.encrypt(nonce, salt + data, _bound(record, name))
        payload = SealedPayload(name, key.name, owner, key.wrapped, sealed)
        return payload, salted_digest(salt, data)

    async def open(self, record: str, name: str) -> Opened | None:
        """Return a payload in the clear, or None where its key was erased.

        Whoever calls this has made sure that the reader may see it.

        Raises:
            NotFoundError: the record has no such payload.
            ProofError: what is stored is not what was sealed.
        """
        stored = await self._store.payload(record, name)
        if stored is None:
            raise NotFoundError(f"record `{record}` has no payload `{name}`")
        if stored.wrapped is None:
            return None
        nonce, body = stored.sealed[:NONCE_BYTES], stored.sealed[NONCE_BYTES:]
        try:
            cipher = AESGCM(aes_key_unwrap(self._master, stored.wrapped))
            plain = cipher.decrypt(nonce, body, _bound(record, name))
        except (InvalidTag, InvalidUnwrap, ValueError) as error:
            raise ProofError(f"payload `{name}` of record `{record}` was altered") from error
        return Opened(name, plain[:SALT_BYTES], plain[SALT_BYTES:])

    async def erase(self, task: str) -> int:
        """Destroy the keys of a task; what they sealed can never be opened again.

        Returns:
            How many keys there were.

        Raises:
            EvidenceError: the erasure is not durable, or old bytes may remain: try again.
        """
        self._keys.pop(task, None)
        return await self._store.erase(task)

    def _key(self, owner: str) -> _Key:
        key = self._keys.get(owner)
        if key is not None:
            self._keys.move_to_end(owner)
            return key
        secret = self._randomness(KEY_BYTES)
        key = _Key(
            self._randomness(NAME_BYTES).hex(), aes_key_wrap(self._master, secret), AESGCM(secret)
        )
        self._keys[owner] = key
        if len(self._keys) > MAX_KEYS:
            self._keys.popitem(last=False)
        return key


def _bound(record: str, name: str) -> bytes:
    return f"{record}\n{name}".encode()
