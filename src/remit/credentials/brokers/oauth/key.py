"""The key that Remit shows itself by at an authorization server, and the assertions it signs.

The private half is made on first use, in a file of mode 0600; the public one lies beside it as a JWK
set, for the operator to register. Whoever has the file is Remit at that server.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from remit.model.errors import ConfigError

_RSA_BITS = 3072
_MOST_BYTES = 16_384


class ClientKey:
    """One private key in ``file``, for ``alg``."""

    def __init__(self, file: Path, alg: str) -> None:
        """Read the key, making it where there is none.

        Raises:
            ConfigError: it cannot be read or made, others may read it, or it does not fit ``alg``.
        """
        self._alg = alg
        kind: type[ECKey | RSAKey] = ECKey if alg == "ES256" else RSAKey
        try:
            pem = _read(file) or _make(file, alg)
            self._key = kind.import_key(pem)
        except OSError as error:
            raise ConfigError(f"the key `{file}` cannot be used: {error.strerror}") from error
        except (ValueError, TypeError, JoseError) as error:
            raise ConfigError(f"the key `{file}` is none for `{alg}`: move it away") from error
        if alg == "ES256" and self._key.as_dict(private=False).get("crv") != "P-256":
            raise ConfigError(f"the key `{file}` is none for `{alg}`: move it away")
        self.kid = self._key.thumbprint()
        jwks = {"keys": [self.public]}
        self.published = file.with_suffix(".jwks.json")
        with contextlib.suppress(OSError):  # a folder that is read-only holds a key that was given
            self.published.write_text(json.dumps(jwks, indent=2) + "\n")

    @property
    def public(self) -> dict[str, Any]:
        """The public key as JWK."""
        return {
            **self._key.as_dict(private=False),
            "kid": self.kid,
            "alg": self._alg,
            "use": "sig",
        }

    def sign(self, claims: dict[str, Any]) -> str:
        """Return the claims as a compact JWS."""
        header = {"alg": self._alg, "kid": self.kid, "typ": "JWT"}
        return jwt.encode(header, claims, self._key, algorithms=[self._alg])


def _read(file: Path) -> bytes | None:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as opened:
        if os.fstat(descriptor).st_mode & 0o077:
            raise ConfigError(f"others can read the key `{file}`: run `chmod 600 {file}`")
        return opened.read(_MOST_BYTES)


def _make(file: Path, alg: str) -> bytes:
    key: ECKey | RSAKey
    key = ECKey.generate_key("P-256") if alg == "ES256" else RSAKey.generate_key(_RSA_BITS)
    pem = key.as_pem(private=True)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(pem)
            opened.flush()
            os.fsync(descriptor)
        # Of two that start at once one makes the key, and both use it.
        with contextlib.suppress(FileExistsError):
            file.hardlink_to(beside)
    finally:
        beside.unlink(missing_ok=True)
    return _read(file) or pem
