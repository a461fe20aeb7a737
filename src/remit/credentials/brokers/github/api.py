"""GitHub's REST API for Apps: four routes, as the App or with a token that it made.

Of an answer that is no success its status is told, never its text. Where GitHub says how long to
wait, nothing is minted before that: who goes on asking is blocked for longer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey
from yarl import URL

from remit.credentials.answers import Answer, Target
from remit.credentials.brokers.github.options import Options
from remit.model.errors import BrokerError, NotMintedError

_BACKDATED_SECONDS = 60
_JWT_SECONDS = 540
"""GitHub takes ten minutes at most, and looks at its own clock."""
_MOST_BYTES = 16 * 1024 * 1024
_LONGEST_WAIT_SECONDS = 3600
_HINTS = {
    401: "look at `client_id`, the private key and this machine's clock",
    403: "the installation is suspended, or may not do this",
    404: "look at `installation_id` or `organization`, and at `api_url`",
    422: "a repository or a permission that the installation does not have",
}


class Api:
    """Talks to one GitHub as one App."""

    def __init__(
        self,
        options: Options,
        *,
        http: aiohttp.ClientSession,
        clock: Callable[[], datetime],
        key: Callable[[], str],
    ) -> None:
        """``key`` reads the App's private key, in PEM."""
        self._options = options
        self._target = Target(
            name="github", http=http, seconds=options.timeout_seconds, most_bytes=_MOST_BYTES
        )
        self._clock = clock
        self._key = key
        self._base = options.api_url.rstrip("/")
        self._installation = options.installation_id
        self._not_before: datetime | None = None

    async def make_token(self, body: Mapping[str, Any]) -> Any:
        """Make a token of the installation; return GitHub's answer.

        Raises:
            NotMintedError: GitHub refused, was not reached, or said to wait.
            BrokerError: it failed, and a token may have been made.
        """
        now = self._clock()
        if self._not_before is not None and now < self._not_before:
            wait = int((self._not_before - now).total_seconds()) + 1
            raise NotMintedError(f"github: its rate limit asks to wait {wait} seconds more")
        number = await self._number()
        path = f"/app/installations/{number}/access_tokens"
        status, answer = await self._ask("POST", path, self._app_token(), body)
        if status == 201:  # noqa: PLR2004 - Created
            return answer
        raise _refused("making a token", status)

    async def revoke_token(self, token: str) -> None:
        """Revoke a token by itself; one that is gone already is no error.

        Raises:
            BrokerError: GitHub did not say that it is gone.
        """
        status, _ = await self._ask("DELETE", "/installation/token", token)
        if status not in {204, 401}:
            raise BrokerError(f"github: revoking a token was answered with {status}")

    async def accepts(self, token: str) -> bool:
        """Ask whether a token works.

        Raises:
            BrokerError: GitHub answered neither.
        """
        status, _ = await self._ask("GET", "/installation/repositories?per_page=1", token)
        if status in {200, 401}:
            return status == 200  # noqa: PLR2004 - OK
        raise BrokerError(f"github: asked about a token, it answered with {status}")

    async def _number(self) -> int:
        if self._installation is None:
            path = f"/orgs/{self._options.organization}/installation"
            status, answer = await self._ask("GET", path, self._app_token())
            number = answer.get("id") if isinstance(answer, dict) else None
            if status != 200 or not isinstance(number, int):  # noqa: PLR2004 - OK
                raise NotMintedError(_said("looking up the installation", status))
            self._installation = number
        return self._installation

    def _app_token(self) -> str:
        """Return a token that says who the App is (RS256, at most ten minutes)."""
        now = int(self._clock().timestamp())
        claims = {
            "iat": now - _BACKDATED_SECONDS,
            "exp": now + _JWT_SECONDS,
            "iss": self._options.client_id,
        }
        try:
            return jwt.encode({"alg": "RS256"}, claims, RSAKey.import_key(self._key()))
        except (JoseError, ValueError, TypeError):
            raise NotMintedError("github: `private_key` holds no RSA key in PEM") from None

    async def _ask(
        self, method: str, path: str, token: str, body: Mapping[str, Any] | None = None
    ) -> tuple[int, Any]:
        headers = {
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {token}",
            "User-Agent": "remit",
            "X-GitHub-Api-Version": "2022-11-28",
        }
        if body is not None:
            headers["Content-Type"] = "application/json"
        data = None if body is None else msgspec.json.encode(body)
        answer = await self._target.ask(
            method, URL(self._base + path, encoded=True), headers=headers, data=data
        )
        self._heed(answer)
        return answer.status, answer.json()

    def _heed(self, response: Answer) -> None:
        """Remember how long GitHub wants to be left alone (its rate limits, both kinds)."""
        if response.status not in {403, 429}:
            return
        now, headers = self._clock(), response.headers
        seconds: float | None = None
        if "Retry-After" in headers:
            seconds = _number(headers["Retry-After"])
        elif headers.get("X-RateLimit-Remaining") == "0":
            seconds = _number(headers.get("X-RateLimit-Reset", "")) - now.timestamp()
        elif response.status == 429:  # noqa: PLR2004 - too many requests
            seconds = 60
        if seconds is not None:
            self._not_before = now + timedelta(seconds=min(max(seconds, 1), _LONGEST_WAIT_SECONDS))


def _number(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 12 else 60.0  # noqa: PLR2004


def _said(what: str, status: int) -> str:
    hint = _HINTS.get(status)
    return f"github: {what} was answered with {status}" + (f": {hint}" if hint else "")


def _refused(what: str, status: int) -> BrokerError:
    certain = 400 <= status < 500  # noqa: PLR2004 - GitHub's word that it made nothing
    return (NotMintedError if certain else BrokerError)(_said(what, status))
