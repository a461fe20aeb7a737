"""Long-lived keys of services that know nothing better: kept encrypted, opened for one call.

One file a key, AES-256-GCM under a key file of the authority's own, its name authenticated with it.
What is remembered between openings is what people may see: a name, a fingerprint that only this file's
salt makes, when it was sealed and rotated. A record says that something will be done before it is
done, so that no key is in use that evidence does not know of.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from remit.credentials.sealing import Seal
from remit.model.errors import ConfigError, ConflictError, InputError, NotFoundError
from remit.model.lease import Lease
from remit.model.record import Context, Json, Recorder, Step

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}\Z")
_LEAST, _MOST = 8, 16_384
"""Characters. A shorter one is guessed, and the leak guard could not look for it."""
_AGAIN = timedelta(days=1)


class _Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a file holds, sealed."""

    secret: str
    salt: bytes
    sealed_at: datetime
    rotated_at: datetime
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedKey:
    """What people may see of a key. ``rotated_at`` is when its present value came."""

    name: str
    fingerprint: str
    sealed_at: datetime
    rotated_at: datetime
    by: str
    last_used: datetime | None = None

    def age(self, now: datetime) -> timedelta:
        """Return how long its present value has been in use."""
        return max(now - self.rotated_at, timedelta(0))

    def body(self) -> dict[str, Json]:
        """Return what evidence keeps."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "rotated_at": self.rotated_at.isoformat(),
        }


class SealedKeys:
    """The drawer of sealed keys, below the state folder."""

    def __init__(
        self, *, folder: Path, seal: Seal, recorder: Recorder, clock: Callable[[], datetime]
    ) -> None:
        """Look at what is there.

        Raises:
            ConfigError: a file does not open with the authority's key, or was altered.
        """
        self._folder = folder
        self._seal = seal
        self._recorder = recorder
        self._clock = clock
        self._changing = asyncio.Lock()
        self._limits: dict[str, timedelta] = {}
        self._said: dict[str, datetime] = {}
        self._keys = {name: self._seen(name) for name in self._names()}

    @property
    def keys(self) -> tuple[SealedKey, ...]:
        """Every sealed key, by name."""
        return tuple(self._keys[name] for name in sorted(self._keys))

    @property
    def limits(self) -> Mapping[str, timedelta]:
        """Which names upstreams are bound to, and how old each may become."""
        return self._limits

    def watch(self, name: str, max_age: timedelta) -> None:
        """Say that an upstream is bound to a key, sealed or not yet, and how old it may become.

        Raises:
            ConfigError: it is no name.
        """
        if not _NAME.match(name):
            raise ConfigError(f"`key`: a name is a-z 0-9 _ -, at most 63, not `{name[:60]}`")
        self._limits[name] = min(max_age, self._limits.get(name, max_age))

    def aged(self, now: datetime) -> tuple[SealedKey, ...]:
        """Return the keys that are older than they may become."""
        return tuple(
            key
            for key in self.keys
            if key.name in self._limits and key.age(now) > self._limits[key.name]
        )

    def notice(self) -> None:
        """Leave a record of each key that is too old: at once, then once a day."""
        now = self._clock()
        for key in self.aged(now):
            if now - self._said.get(key.name, datetime.min.replace(tzinfo=UTC)) < _AGAIN:
                continue
            self._said[key.name] = now
            days: dict[str, Json] = {
                "age_days": key.age(now).days,
                "max_age_days": str(self._limits[key.name] / timedelta(days=1)),
            }
            self._recorder.stage(
                Step(kind="credential.aged", body={**key.body(), **days}), Context()
            )

    async def seal(self, name: str, secret: str, by: str) -> SealedKey:
        """Keep a key that is not there yet.

        Raises:
            ConflictError: one of that name is there: it can be rotated.
            InputError: it is no name, or no key.
            EvidenceError: that it is kept could not be made durable; it is not.
            ConfigError: it could not be written.
        """
        if not _NAME.match(name):
            raise InputError(f"a name is a-z 0-9 _ -, at most 63 characters, not `{name[:60]}`")
        async with self._changing:
            if name in self._keys:
                raise ConflictError(
                    f"`{name}` is sealed already: `remit credential rotate {name}` replaces it"
                )
            now = self._clock()
            return await self._put("sealed", name, secret, by, now)

    async def rotate(self, name: str, secret: str, by: str) -> SealedKey:
        """Put a new value in the place of the old one, which is kept nowhere.

        Raises:
            NotFoundError: none of that name is sealed.
            ConflictError: it is the value that is there.
            InputError: it is no key.
            EvidenceError: that it is replaced could not be made durable; the old one stands.
            ConfigError: it could not be written; the old one stands.
        """
        async with self._changing:
            key = self.get(name)
            if hmac.compare_digest(self._document(name).secret, secret):
                raise ConflictError(f"this is the present value of `{name}`: nothing was rotated")
            return await self._put("rotated", name, secret, by, key.sealed_at)

    async def remove(self, name: str, by: str) -> None:
        """Throw a key away.

        Raises:
            NotFoundError: none of that name is sealed.
            EvidenceError: that it is removed could not be made durable; it stands.
            ConfigError: its file could not be removed.
        """
        async with self._changing:
            await self._record("removed", self.get(name), by)
            try:
                await asyncio.to_thread(self._erase, name)
            except OSError as error:
                raise ConfigError(f"`{name}` cannot be removed: {error.strerror}") from error
            del self._keys[name]

    def get(self, name: str) -> SealedKey:
        """Return what may be seen of a key.

        Raises:
            NotFoundError: none of that name is sealed.
        """
        try:
            return self._keys[name]
        except KeyError as error:
            raise NotFoundError(
                f"no key `{name[:60]}` is sealed: `remit credential seal NAME` seals one"
            ) from error

    def open(self, name: str, lease: Lease) -> str:
        """Return a key's value for one call, and leave a record of that.

        Raises:
            NotFoundError: none of that name is sealed.
            ConfigError: its file was altered, or taken away.
        """
        key = self.get(name)
        secret = self._document(name).secret
        self._recorder.stage(
            Step(
                kind="credential.opened",
                body={**key.body(), "lease": lease.id, "handle": lease.handle},
            ),
            Context(task=lease.task, call=lease.call),
        )
        now = self._clock()
        self._keys[name] = replace(key, last_used=now)
        with contextlib.suppress(OSError):  # when it was last used is a help, not a promise
            stamp = self._place(f"{name}.used")
            stamp.touch(mode=0o600)
            os.utime(stamp, (now.timestamp(), now.timestamp()))
        return secret

    async def _put(
        self, verb: str, name: str, secret: str, by: str, sealed_at: datetime
    ) -> SealedKey:
        _check_secret(secret)
        document = _Document(
            secret=secret,
            salt=secrets.token_bytes(16),
            sealed_at=sealed_at,
            rotated_at=self._clock(),
            by=by,
        )
        before = self._keys.get(name)
        key = replace(_public(name, document), last_used=before.last_used if before else None)
        await self._record(verb, key, by)
        sealed = self._seal.close(msgspec.json.encode(document).decode(), _context(name))
        try:
            await asyncio.to_thread(self._write, name, sealed)
        except OSError as error:
            await self._record("not_written", key, by)
            raise ConfigError(f"`{name}` cannot be written: {error.strerror}") from error
        self._keys[name] = key
        self._said.pop(name, None)
        return key

    async def _record(self, verb: str, key: SealedKey, by: str) -> None:
        self._recorder.stage(
            Step(kind=f"credential.{verb}", body={**key.body(), "by": by}), Context()
        )
        await self._recorder.barrier()

    def _names(self) -> list[str]:
        if not self._folder.is_dir():
            return []
        return sorted(each.name for each in self._folder.iterdir() if _NAME.match(each.name))

    def _seen(self, name: str) -> SealedKey:
        key = _public(name, self._document(name))
        with contextlib.suppress(OSError):
            used = self._place(f"{name}.used").stat().st_mtime
            return replace(key, last_used=datetime.fromtimestamp(used, UTC))
        return key

    def _document(self, name: str) -> _Document:
        try:
            text = self._seal.open(self._place(name).read_bytes(), _context(name))
            return msgspec.json.decode(text, type=_Document)
        except (OSError, ConfigError, msgspec.DecodeError) as error:
            raise ConfigError(
                f"sealed key `{name}` does not open: restore its file and `sealed.key` from one "
                "copy, or remove the file and seal the key anew"
            ) from error

    def _write(self, name: str, sealed: bytes) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = self._place(f"{name}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(beside, flags, 0o600), "wb") as file:
            file.write(sealed)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._place(name))
        self._flush_folder()

    def _erase(self, name: str) -> None:
        self._place(name).unlink(missing_ok=True)
        for left in (f"{name}.used", f"{name}.new"):
            self._place(left).unlink(missing_ok=True)
        self._flush_folder()

    def _flush_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _place(self, name: str) -> Path:
        return self._folder / name


def _check_secret(secret: str) -> None:
    if not _LEAST <= len(secret) <= _MOST:
        raise InputError(f"a key has {_LEAST} to {_MOST} characters")
    if "\x00" in secret or not secret.strip() or _surrogate(secret):
        raise InputError("a key is text without zero bytes, and not blank")


def _surrogate(text: str) -> bool:
    return any("\ud800" <= each <= "\udfff" for each in text)


def _context(name: str) -> str:
    return f"sealed key {name}"


def _public(name: str, document: _Document) -> SealedKey:
    digest = hmac.new(document.salt, document.secret.encode(), hashlib.sha256)
    return SealedKey(
        name=name,
        fingerprint=digest.hexdigest()[:16],
        sealed_at=document.sealed_at,
        rotated_at=document.rotated_at,
        by=document.by,
    )
