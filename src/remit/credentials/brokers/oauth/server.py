"""An authorization server as a client meets it: its metadata, and forms that are answered in JSON.

The rules it enforces: the server's metadata names the very issuer that the configuration names (RFC
8414 section 3.3); nothing is sent in clear but to loopback; no redirect is followed; an answer is
bounded in time and size; of an error its code is told and nothing else.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from remit.credentials.answers import Target
from remit.credentials.brokers.oauth.options import require_address
from remit.model.errors import BrokerError, ConfigError, NotMintedError
from remit.proof.dpop import ProofKey

_MOST_BYTES = 256 * 1024
_METADATA_FOR = timedelta(hours=1)
_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,64}\Z")
_NONCE = re.compile(r"[\x21-\x7e]{1,512}\Z")
_OK, _BAD, _NOT_FOUND, _ERROR = 200, 400, 404, 500


class RefusedError(NotMintedError):
    """The server answered, and did not do it; ``oauth_code`` is its word for why."""

    def __init__(self, what: str, code: str) -> None:
        super().__init__(f"oauth: {what} was refused: `{code}`{_HINTS.get(code, '')}")
        self.oauth_code = code


_HINTS = {
    "invalid_client": ": look at the client's registered keys, and at both clocks",
    "unauthorized_client": ": the client may not use this grant there",
    "invalid_grant": ": look at whether the server trusts remit's keys and knows this person",
    "invalid_scope": ": look at the grant's `scope`, and the client's there",
    "invalid_target": ": look at the grant's `audience` and `resource`",
    "access_denied": ": look at what the client is permitted there",
}


@dataclass(frozen=True, slots=True)
class Metadata:
    """Where the server takes what."""

    token: str
    revocation: str | None
    introspection: str | None
    until: datetime


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: Mapping[str, Any] | None
    nonce: str | None


class Server:
    """One authorization server, asked through the house's own HTTP client."""

    def __init__(
        self,
        issuer: str,
        *,
        http: aiohttp.ClientSession,
        clock: Callable[[], datetime],
        timeout_seconds: float,
        tls: ssl.SSLContext | None,
    ) -> None:
        self.issuer = issuer
        self._target = Target(
            name=f"oauth: `{issuer}`",
            http=http,
            seconds=timeout_seconds,
            most_bytes=_MOST_BYTES,
            tls=tls if tls is not None else True,
        )
        self._clock = clock
        self._known: Metadata | None = None
        self._looking = asyncio.Lock()

    async def metadata(self, *, of_any_age: bool = False) -> Metadata:
        """Return where the server takes what, looked up once an hour.

        Args:
            of_any_age: take what was known before, so that no look-up is in a revocation's way.

        Raises:
            NotMintedError: it cannot be had, or is not this issuer's.
        """
        if of_any_age and self._known is not None:
            return self._known
        async with self._looking:
            known = self._known
            if known is None or known.until <= self._clock():
                known = self._known = await self._discover()
            return known

    async def _discover(self) -> Metadata:
        """RFC 8414 section 3.1, then OpenID Connect Discovery section 4."""
        parts = urlsplit(self.issuer)
        path = parts.path.rstrip("/")
        places = (
            urlunsplit(parts._replace(path=f"/.well-known/oauth-authorization-server{path}")),
            f"{self.issuer.rstrip('/')}/.well-known/openid-configuration",
        )
        for place in places:
            try:
                said = await self._ask("GET", place)
            except BrokerError as error:
                raise NotMintedError(str(error)) from error  # nothing was asked for yet
            if said.status == _OK and said.body is not None:
                return self._read(said.body)
            if said.status < _BAD or said.status >= _ERROR:
                break
        raise NotMintedError(f"oauth: the metadata of `{self.issuer}` cannot be read there")

    def _read(self, said: Mapping[str, Any]) -> Metadata:
        if said.get("issuer") != self.issuer:
            raise NotMintedError(
                f"oauth: what is published at `{self.issuer}` is another issuer's: write `issuer` "
                "exactly as the server does"
            )
        found: dict[str, str | None] = {}
        for name in ("token", "revocation", "introspection"):
            address = said.get(f"{name}_endpoint")
            if address is not None:
                try:
                    require_address(f"oauth: its `{name}_endpoint`", str(address))
                except ConfigError as error:
                    raise NotMintedError(str(error)) from error
            found[name] = None if address is None else str(address)
        token = found["token"]
        if token is None:
            raise NotMintedError(f"oauth: `{self.issuer}` has no token endpoint")
        return Metadata(
            token, found["revocation"], found["introspection"], self._clock() + _METADATA_FOR
        )

    async def post(
        self,
        what: str,
        url: str,
        form: Callable[[], Sequence[tuple[str, str]]],
        key: ProofKey | None = None,
    ) -> Mapping[str, Any]:
        """Send a form and return the answer; empty where a success has no body.

        Args:
            what: for messages.
            url: where to.
            form: makes the fields, anew for each try: an assertion is good once.
            key: proves possession (RFC 9449 section 5), again with the server's nonce if it wants one.

        Raises:
            RefusedError: the server said no.
            NotMintedError: it was not reached.
            BrokerError: it failed, or its answer makes no sense.
        """
        answer = await self._ask("POST", url, form(), self._proof(key, url, None))
        if key is not None and _code(answer) == "use_dpop_nonce" and answer.nonce is not None:
            answer = await self._ask("POST", url, form(), self._proof(key, url, answer.nonce))
        if answer.status == _OK:
            return answer.body if answer.body is not None else {}
        code = _code(answer)
        if code is not None and _BAD <= answer.status < _ERROR:
            raise RefusedError(what, code)
        raise BrokerError(f"oauth: {what}: the server answered {answer.status}")

    def _proof(self, key: ProofKey | None, url: str, nonce: str | None) -> str | None:
        if key is None:
            return None
        if nonce is None:
            return key.prove("POST", url)
        claims = {
            "jti": secrets.token_urlsafe(16),
            "htm": "POST",
            "htu": url.partition("?")[0],
            "iat": int(self._clock().timestamp()),
            "nonce": nonce,
        }
        return key.sign(claims)

    async def _ask(
        self,
        method: str,
        url: str,
        form: Sequence[tuple[str, str]] | None = None,
        proof: str | None = None,
    ) -> _Answer:
        headers = {"Accept": "application/json", **({"DPoP": proof} if proof else {})}
        data = aiohttp.FormData(list(form)) if form is not None else None
        answer = await self._target.ask(method, url, headers=headers, data=data)
        said = answer.json()
        return _Answer(
            answer.status,
            said if isinstance(said, dict) else None,
            _nonce(answer.headers.get("DPoP-Nonce")),
        )


def _code(answer: _Answer) -> str | None:
    """Return the OAuth error code, where the server gave one that can be shown."""
    code = (answer.body or {}).get("error")
    return code if isinstance(code, str) and _CODE.match(code) else None


def _nonce(text: str | None) -> str | None:
    return text if text is not None and _NONCE.match(text) else None
