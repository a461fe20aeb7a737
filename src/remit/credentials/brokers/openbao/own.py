"""The token that Remit shows OpenBao: out of a file or a variable, or a login's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import stat
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from remit.credentials.brokers.openbao.carried import Asking, document
from remit.credentials.brokers.openbao.options import Options
from remit.credentials.port import Signer
from remit.model.errors import NotMintedError

_OTHERS = 0o077
_MAX_FILE_BYTES = 64 * 1024
_JWT_SECONDS = 60

Ask = Callable[[str, Asking], Awaitable[Any]]


class Secrets:
    """Reads secrets of Remit's own, and a file again only once it is another."""

    def __init__(self, where: str, path: Callable[[str], Path]) -> None:
        self._where = where
        self._path = path
        self._read: dict[str, tuple[str, tuple[int, ...], str]] = {}

    def get(self, named: str, key: str) -> tuple[str, bool]:
        """Return a file's one line or ``env:NAME``'s value, and whether it was read just now.

        Raises:
            NotMintedError: it is not there, or others may read the file; nothing was asked.
        """
        if named.startswith("env:"):
            return self._checked(os.environ.get(named[4:], ""), named, key), True
        if (known := self._read.get(named)) is not None:
            path, identity, text = known
            with contextlib.suppress(OSError):
                if _identity(os.stat(path)) == identity:  # noqa: PTH116 - for each request
                    return text, False
        place = self._path(named)
        identity, text = self._file(place, f"{self._where}: `{key}`")
        text = self._checked(text, named, key)
        self._read[named] = str(place), identity, text
        return text, True

    def forget(self) -> None:
        """Read everything anew: what was read is refused."""
        self._read.clear()

    def _checked(self, text: str, named: str, key: str) -> str:
        text = text.strip()
        if not text.isascii() or not text.isprintable() or not text:
            raise NotMintedError(
                f"{self._where}: `{key}` names `{named}`, where there is no secret"
            )
        return text

    def _file(self, path: Path, where: str) -> tuple[tuple[int, ...], str]:
        try:
            # Not waiting: what is no file, such as a pipe, would hold up everything.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                found = os.fstat(descriptor)
                data = file.read(_MAX_FILE_BYTES) if stat.S_ISREG(found.st_mode) else b""
        except OSError as error:
            raise NotMintedError(
                f"{where}: `{path.name}` cannot be read: {error.strerror}"
            ) from error
        if found.st_mode & _OTHERS:
            raise NotMintedError(f"{where}: others may read `{path.name}`: set its mode to 0600")
        try:
            return _identity(found), data.decode()
        except UnicodeDecodeError:
            raise NotMintedError(f"{where}: `{path.name}` is not text") from None


def _identity(found: os.stat_result) -> tuple[int, ...]:
    """Return what differs once a file was written, replaced, or shown to others."""
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class Own:
    """Remit's own token, of which there is one at a time."""

    def __init__(self, options: Options, given: Secrets, signer: Signer, ask: Ask) -> None:
        """``ask`` asks OpenBao with a token."""
        self._options = options
        self._given = given
        self._signer = signer
        self._ask = ask
        self._token = ""
        self._renew_at = 0.0
        self._logging_in: asyncio.Task[None] | None = None

    async def token(self, lives: float) -> tuple[str, bool]:
        """Return a token, and whether it is new.

        Args:
            lives: seconds that what is made below a login has to live: it dies with the login.

        Raises:
            VaultError: the login was refused.
            NotMintedError: there is no secret to show, or OpenBao was not reached.
            BrokerError: OpenBao failed.
        """
        if self._options.login == "token":
            return self._given.get(self._options.token_file or "", "token_file")
        fresh = False
        while not self._token or time.monotonic() + lives >= self._renew_at:
            if self._logging_in is None:
                self._logging_in = asyncio.create_task(self._log_in(lives))
                self._logging_in.add_done_callback(self._logged_in)
            # Whoever waits may be cancelled; a login that nobody heard of would stand.
            await asyncio.shield(self._logging_in)
            fresh = True
        return self._token, fresh

    def refused(self, token: str) -> None:
        """Do not show ``token`` again, where there may be another."""
        self._given.forget()
        if self._token == token:
            self._token = ""

    async def log_out(self) -> None:
        """Revoke the token that a login gave; nothing of Remit's stands at the target then.

        Raises:
            VaultError: OpenBao refused.
            BrokerError: it failed.
        """
        if self._logging_in is not None:
            await asyncio.wait({self._logging_in})
        token, self._token = self._token, ""
        if token:
            await self._ask(token, lambda client: client.auth.token.revoke_self())

    async def _log_in(self, lives: float) -> None:
        now = time.monotonic()
        answer = document(await self._ask("", self._login()), "logging in")
        auth: Mapping[str, Any] = answer["auth"]
        seconds = float(auth["lease_duration"])
        self._token = str(auth["client_token"])
        # A role whose tokens live shorter than a lease: one login a lease, not one a request.
        self._renew_at = now + max(seconds, lives + 1)

    def _logged_in(self, done: asyncio.Task[None]) -> None:
        self._logging_in = None
        if not done.cancelled():
            done.exception()  # whoever waits was told

    def _login(self) -> Asking:
        options = self._options
        if options.login == "approle":
            secret, _ = self._given.get(options.secret_id_file or "", "secret_id_file")
            return lambda client: client.auth.approle.login(
                options.role_id, secret, use_token=False, mount_point=options.mount or "approle"
            )
        now = int(time.time())
        claims = {
            "sub": options.subject,
            "aud": options.audience or options.url.rstrip("/"),
            "iat": now,
            "nbf": now,
            "exp": now + _JWT_SECONDS,
            "jti": secrets.token_hex(16),
        }
        shown = self._signer.sign_jwt(claims)
        return lambda client: client.auth.jwt.jwt_login(
            options.role, shown, use_token=False, path=options.mount or "jwt"
        )
