"""The trust domain's keys on disk: one file, written whole or not at all.

The rules it enforces:

- The folder is ours alone (0700) and so is the file (0600); wider modes, another owner or a
  symbolic link are refused, never repaired, because somebody may have read it already.
- A new state is written beside the old one, made durable, and renamed over it. A crash leaves the
  one or the other. The first one is linked into place, so that of two starting processes one wins.
- A key is named by its RFC 7638 thumbprint, so that whoever is told a name is told the key: no
  other key can be put in its place. A stored key with another name is refused.
- Each ring holds one key in use and the next one, which was published with the last change, so
  that everybody has seen a key before it signs. A retired key loses its private half at once and
  stays published until what it signed has expired; keys that signed mandates stay for good.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from remit.model.errors import ConfigError

FILE = "trust-domain.json"
_MAX_FILE_BYTES = 16 * 1024 * 1024


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One key. ``private`` is PKCS #8 PEM, None once retired; ``public`` is SPKI PEM.

    ``kid`` is its RFC 7638 thumbprint (SHA-256, base64url).
    ``until`` is when it leaves the bundle, for a retired key. ``certificate`` is the DER of an
    X.509 authority.
    """

    kid: str
    published_at: datetime
    public: str
    private: str | None = None
    activated_at: datetime | None = None
    until: datetime | None = None
    certificate: bytes | None = None

    def __repr__(self) -> str:
        return f"Key(kid={self.kid!r})"


class Ring(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of one use: the one that signs, the next one, and those retired, newest first."""

    active: Key
    next: Key
    retired: tuple[Key, ...] = ()

    @property
    def published(self) -> tuple[Key, ...]:
        """Every key that others should know."""
        return (self.active, self.next, *self.retired)

    def advance(self, fresh: Key, *, now: datetime, until: datetime | None) -> Ring:
        """Return the ring with the next key in use, and ``fresh`` published as the next one."""
        old = msgspec.structs.replace(self.active, private=None, until=until)
        used = msgspec.structs.replace(self.next, activated_at=now)
        return Ring(active=used, next=fresh, retired=(old, *self.retired))

    def without_expired(self, now: datetime) -> Ring:
        """Return the ring without retired keys whose time is over."""
        kept = tuple(k for k in self.retired if k.until is None or k.until > now)
        return (
            self if len(kept) == len(self.retired) else msgspec.structs.replace(self, retired=kept)
        )


class Rings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the file holds. ``sequence`` moves with every change of the bundle."""

    version: int = 1
    trust_domain: str
    sequence: int
    jwt: Ring
    x509: Ring
    signing: Ring


def new_key(now: datetime) -> tuple[ec.EllipticCurvePrivateKey, Key]:
    """Return a new P-256 key, and how the ring keeps it."""
    private = ec.generate_private_key(ec.SECP256R1())
    public = (
        private.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )
    key = Key(
        kid=_thumbprint(public),
        published_at=now,
        public=public,
        private=private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode(),
    )
    return private, key


class KeyFile:
    """The file with the rings, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        """Take the folder, creating it (0700) where it is missing.

        Raises:
            ConfigError: it is not ours alone, or cannot be created.
        """
        self._folder = folder
        self._path = folder / FILE
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"the key folder `{folder}` cannot be created") from error
        _require_private(folder, os.lstat(folder), folder=True)

    def load(self) -> Rings | None:
        """Return what the file holds; None where there is no file yet.

        Raises:
            ConfigError: it is not ours alone, damaged, or names a key by another text than its
                thumbprint.
        """
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"the key file `{self._path}` cannot be read") from error
        with os.fdopen(descriptor, "rb") as file:
            _require_private(self._path, os.fstat(file.fileno()), folder=False)
            data = file.read(_MAX_FILE_BYTES)
        try:
            rings = msgspec.json.decode(data, type=Rings)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            # The cause would show a part of the file, and the file holds keys.
            raise ConfigError(
                f"the key file `{self._path}` is damaged: restore it from a backup"
            ) from None
        if rings.version != 1:
            raise ConfigError(f"the key file `{self._path}` is from a newer version of remit")
        for key in (k for ring in (rings.jwt, rings.x509, rings.signing) for k in ring.published):
            _require_named(self._path, key)
        return rings

    def create(self, rings: Rings) -> Rings:
        """Write the first state, unless another process was quicker; return what is there now.

        Raises:
            ConfigError: it cannot be written.
        """
        with self._written(rings) as temporary, contextlib.suppress(FileExistsError):
            # A hard link never replaces a file, as a rename would.
            os.link(temporary, self._path)
        there = self.load()
        if there is None:
            raise ConfigError(f"the key file `{self._path}` went away while it was created")
        return there

    def replace(self, rings: Rings) -> None:
        """Write the next state over the last one.

        Raises:
            ConfigError: it cannot be written; the last state stands.
        """
        with self._written(rings) as temporary:
            temporary.replace(self._path)

    @contextlib.contextmanager
    def _written(self, rings: Rings) -> Iterator[Path]:
        temporary = self._folder / f".{FILE}.{secrets.token_hex(8)}"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(rings)))
                file.flush()
                os.fsync(file.fileno())
            yield temporary
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise ConfigError(f"the key file `{self._path}` cannot be written") from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _thumbprint(public: str) -> str:
    return ECKey.import_key(public).thumbprint()


def _require_named(path: Path, key: Key) -> None:
    try:
        right = _thumbprint(key.public) == key.kid
    except (ValueError, TypeError, JoseError) as error:
        raise ConfigError(f"the key file `{path}` is damaged: restore it from a backup") from error
    if not right:
        raise ConfigError(
            f"a key in `{path}` is not named by its thumbprint: restore it from a backup, "
            "or begin with a new state folder"
        )


def _require_private(path: Path, status: os.stat_result, *, folder: bool) -> None:
    kind, want = ("folder", 0o700) if folder else ("file", 0o600)
    right = stat.S_ISDIR(status.st_mode) if folder else stat.S_ISREG(status.st_mode)
    if not right:
        raise ConfigError(f"`{path}` is not a {kind} of its own: remit keeps its keys there")
    if status.st_uid != os.geteuid():
        raise ConfigError(f"the key {kind} `{path}` belongs to another user")
    mode = stat.S_IMODE(status.st_mode)
    if mode & ~want:
        raise ConfigError(
            f"the key {kind} `{path}` has mode {mode:04o}: others may have read it; "
            f"it has to be {want:04o}"
        )
