"""OpenBao's HTTP API (and Vault's, which is the same) through ``hvac``, for a worker thread.

``hvac`` is given everything by hand: left alone it takes tokens, addresses and proxies from the
environment, and follows a redirect to another host with the token in its header.
"""

from __future__ import annotations

import contextlib
import http.cookiejar
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import hvac
import requests
from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest, Unauthorized, VaultError
from requests.adapters import HTTPAdapter
from urllib3.exceptions import NewConnectionError

from remit.credentials.brokers.openbao.options import Options
from remit.credentials.port import Signer
from remit.model.errors import BrokerError, NotMintedError

T = TypeVar("T")

_OTHERS = 0o077
_MAX_FILE_BYTES = 64 * 1024
_JWT_SECONDS = 60
_GONE = ("invalid accessor", "invalid lease", "no token found", "token not found")
"""How OpenBao and Vault say that a thing is not there; its status alone is also a denial's."""


class Api:
    """Talks to one OpenBao as Remit, or with a token that Remit made."""

    def __init__(
        self, where: str, options: Options, path: Callable[[str], Path], signer: Signer
    ) -> None:
        self._where = where
        self._options = options
        self._path = path
        self._signer = signer
        self._session = _session(options, path)
        self._lock = threading.Lock()
        self._token = ""
        self._renew_at = 0.0

    def with_token(self, token: str) -> hvac.Client:
        """Return a client that shows ``token``."""
        options = self._options
        return hvac.Client(
            url=options.url.rstrip("/"),
            token=token,
            cert=(),  # none, and none from the environment either
            verify=self._session.verify,
            timeout=(options.timeout_seconds, options.timeout_seconds),
            allow_redirects=False,
            session=self._session,
            namespace=options.namespace,
            strict_http=True,
        )

    def as_remit(
        self, ask: Callable[[hvac.Client], T], *, lives: float = 0, again: bool = True
    ) -> T:
        """Ask as Remit, logged in anew where a login of its own was refused.

        Args:
            ask: uses the client once; asked again after a new login.
            lives: seconds that what is made below the login has to live.
            again: whether a refusal is a reason for a new login.
        """
        if self._options.login == "token":
            token = self.read_secret(self._options.token_file or "", "token_file")
            return ask(self.with_token(token))
        token, fresh = self._logged_in(lives)
        try:
            return ask(self.with_token(token))
        except (Forbidden, Unauthorized):
            if fresh or not again:
                raise
        with self._lock:
            if self._token == token:
                self._token = ""
        return ask(self.with_token(self._logged_in(lives)[0]))

    def log_out(self) -> None:
        """Revoke the token that a login gave; nothing of Remit's stands at the target then."""
        with self._lock:
            token, self._token = self._token, ""
        if token:
            with answers("logging out"):
                self.with_token(token).auth.token.revoke_self()

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _logged_in(self, lives: float) -> tuple[str, bool]:
        """Return a login's token, and whether it is new. What is made below it dies with it."""
        with self._lock:
            now = time.monotonic()
            if self._token and now + lives < self._renew_at:
                return self._token, False
            auth = self._login(self.with_token(""))["auth"]
            self._token = str(auth["client_token"])
            # A role whose tokens live shorter than a lease: one login a lease, not one a request.
            self._renew_at = now + max(float(auth["lease_duration"]), lives + 1)
            return self._token, True

    def _login(self, client: hvac.Client) -> Mapping[str, Any]:
        options = self._options
        if options.login == "approle":
            secret = self.read_secret(options.secret_id_file or "", "secret_id_file")
            answer = client.auth.approle.login(
                options.role_id, secret, use_token=False, mount_point=options.mount or "approle"
            )
        else:
            now = int(time.time())
            claims = {
                "sub": options.subject,
                "aud": options.audience or options.url.rstrip("/"),
                "iat": now,
                "nbf": now,
                "exp": now + _JWT_SECONDS,
                "jti": secrets.token_hex(16),
            }
            answer = client.auth.jwt.jwt_login(
                options.role,
                self._signer.sign_jwt(claims),
                use_token=False,
                path=options.mount or "jwt",
            )
        return document(answer, "logging in")

    def read_secret(self, named: str, key: str) -> str:
        """Return a secret of Remit's own: a file's one line, or ``env:NAME``'s value.

        Raises:
            NotMintedError: it is not there, or others may read the file; nothing was asked.
        """
        if named.startswith("env:"):
            text = os.environ.get(named[4:], "")
        else:
            text = _read_file(self._path(named), f"{self._where}: `{key}`")
        if not text.strip() or not text.strip().isascii():
            raise NotMintedError(
                f"{self._where}: `{key}` names `{named}`, where there is no secret"
            )
        return text.strip()


def document(answer: object, what: str) -> Mapping[str, Any]:
    """Return an answer's JSON; hvac gives a bare response where there was none.

    Raises:
        BrokerError: there was none.
    """
    if not isinstance(answer, Mapping):
        raise BrokerError(f"openbao: {what} was answered with nothing")
    return answer


def is_gone(error: VaultError) -> bool:
    """Whether OpenBao said that the thing asked for is not there, and not that we may not ask.

    Its words decide: a 404 is also what a wrong mount, namespace or server answers.
    """
    said = " ".join(str(each) for each in error.errors or ()).lower()
    return isinstance(error, InvalidRequest | Forbidden) and any(each in said for each in _GONE)


@contextlib.contextmanager
def answers(what: str, *, mints: bool = False) -> Iterator[None]:
    """Turn what hvac and its connections raise into errors that show no secret.

    Raises:
        NotMintedError: with ``mints``, OpenBao refused or was never reached.
        BrokerError: anything else went wrong.
    """
    try:
        yield
    except VaultError as error:
        status = type(error).__name__
        refused = isinstance(error, InvalidRequest | Unauthorized | Forbidden | InvalidPath)
        kind = NotMintedError if mints and refused else BrokerError
        raise kind(f"openbao: {what} was answered with `{status}`: {_hint(error)}") from None
    except requests.RequestException as error:
        kind = NotMintedError if mints and _never_sent(error) else BrokerError
        raise kind(f"openbao does not answer: {what}: `{type(error).__name__}`") from None
    except (KeyError, TypeError, ValueError):
        raise BrokerError(f"openbao: {what} was answered with something else") from None


def _hint(error: VaultError) -> str:
    if isinstance(error, Forbidden | Unauthorized):
        return "look at the policy of Remit's own token, and at its age"
    if isinstance(error, InvalidRequest | InvalidPath):
        return "look at the names in the grant, and at the token role's allowed policies"
    return "look at OpenBao's own log"


def _never_sent(error: requests.RequestException) -> bool:
    if isinstance(error, requests.ConnectTimeout):
        return True
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(reason, NewConnectionError)


def _session(options: Options, path: Callable[[str], Path]) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.verify = str(path(options.ca_file)) if options.ca_file else True
    session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    # Twice as many as there are minting threads: a revocation never waits for a mint's connection.
    pool = HTTPAdapter(pool_connections=1, pool_maxsize=2 * options.connections, max_retries=0)
    session.mount("https://", pool)
    session.mount("http://", pool)
    return session


def _read_file(path: Path, where: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise NotMintedError(f"{where}: `{path.name}` cannot be read: {error.strerror}") from error
    if mode & _OTHERS:
        raise NotMintedError(f"{where}: others may read `{path.name}`: set its mode to 0600")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise NotMintedError(f"{where}: `{path.name}` is not text") from None
