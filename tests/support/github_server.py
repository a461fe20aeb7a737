"""A GitHub for tests, on loopback: the routes of Apps, from GitHub's published API description.

Written from the descriptions of `apps/create-installation-access-token`,
`apps/revoke-installation-access-token`, `apps/list-repos-accessible-to-installation`,
`apps/get-org-installation`, `repos/get-content` and `issues/list-for-repo`, and from GitHub's pages
on rate limits and App authentication; apart from the broker, of which it imports nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey
from processes import free_port

LEVELS = ["read", "write", "admin"]
CLIENT_ID = "Iv23liRemit0Example0"
INSTALLATION = 4711
ORGANIZATION = "corp"


@dataclass
class Token:
    """One installation token, as GitHub knows it."""

    permissions: Mapping[str, str]
    repositories: frozenset[int]
    selected: bool
    expires: int


@dataclass
class GitHub:
    """One organization with an installed App."""

    key: RSAKey
    port: int
    repositories: dict[int, str] = field(
        default_factory=lambda: {101: "site", 102: "infra", 103: "payroll"}
    )
    granted: dict[str, str] = field(
        default_factory=lambda: {"contents": "write", "issues": "write", "metadata": "read"}
    )
    tokens: dict[str, Token] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    suspended: bool = False
    ahead: float = 0
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Given instead, next: a status and headers, for limits and failures."""
    widens: dict[str, Any] = field(default_factory=dict)
    """Laid over the next tokens' answers: a server that gives more than it was asked for."""
    forgetful: bool = False
    """A revocation is answered well, and does nothing."""
    hold: asyncio.Event | None = None
    holding: asyncio.Event = field(default_factory=asyncio.Event)
    runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def now(self) -> float:
        return time.time() + self.ahead

    def live(self) -> int:
        return sum(token.expires > self.now() for token in self.tokens.values())

    async def up(self) -> None:
        app = web.Application(middlewares=[self.front])
        app.router.add_post("/app/installations/{number}/access_tokens", self.create)
        app.router.add_delete("/installation/token", self.revoke)
        app.router.add_get("/installation/repositories", self.listed)
        app.router.add_get("/orgs/{org}/installation", self.installation)
        app.router.add_get("/repos/{owner}/{repo}/contents/{path:.+}", self.content)
        app.router.add_get("/repos/{owner}/{repo}/issues", self.issues)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def down(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()
            self.runner = None

    @web.middleware
    async def front(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.asked.append((request.method, request.path))
        if request.headers.get("X-GitHub-Api-Version", "2022-11-28") != "2022-11-28":
            return fault(400, "Unsupported API version")
        if "User-Agent" not in request.headers:
            return fault(403, "Request forbidden by administrative rules")
        if self.answers:
            status, headers = self.answers.pop(0)
            return web.json_response(
                {"message": "You have exceeded a secondary rate limit"},
                status=status,
                headers=headers,
            )
        response: web.StreamResponse = await handler(request)
        return response

    # --- as the App ---

    def app_fault(self, request: web.Request) -> web.Response | None:
        try:
            token = jwt.decode(bearer(request), self.key, algorithms=["RS256"])
            issued, expires = int(token.claims["iat"]), int(token.claims["exp"])
        except (JoseError, ValueError, KeyError):
            return fault(401, "A JSON web token could not be decoded")
        if token.claims.get("iss") != CLIENT_ID:
            return fault(401, "Integration not found")
        if issued > self.now() + 5 or expires <= self.now():
            return fault(401, "'Expiration time' claim ('exp') must be in the future")
        if expires > self.now() + 605:
            return fault(401, "'Expiration time' claim ('exp') is too far in the future")
        return None

    async def installation(self, request: web.Request) -> web.Response:
        if (bad := self.app_fault(request)) is not None:
            return bad
        if request.match_info["org"].lower() != ORGANIZATION:
            return fault(404, "Not Found")
        return web.json_response({"id": INSTALLATION, "account": {"login": ORGANIZATION}})

    async def create(self, request: web.Request) -> web.Response:
        if (bad := self.app_fault(request)) is not None:
            return bad
        if request.match_info["number"] != str(INSTALLATION):
            return fault(404, "Not Found")
        if self.suspended:
            return fault(403, "This installation has been suspended")
        body = await request.json() if request.can_read_body else {}
        if not set(body) <= {"repositories", "repository_ids", "permissions"}:
            return fault(422, "Invalid request")
        wanted = self.wanted(body)
        if (bad := self.scope_fault(body, wanted)) is not None:
            return bad
        asked = body.get("permissions") or dict(self.granted)
        if self.hold is not None:
            self.holding.set()
            await self.hold.wait()
        token = f"ghs_{secrets.token_hex(18)}"
        made = self.tokens[token] = Token(
            permissions={**asked, "metadata": "read"},
            repositories=frozenset(wanted or self.repositories),
            selected=bool(wanted),
            expires=int(self.now()) + 3600,
        )
        answer: dict[str, Any] = {
            "token": token,
            "expires_at": datetime.fromtimestamp(made.expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "permissions": made.permissions,
            "repository_selection": "selected" if made.selected else "all",
        }
        if made.selected:
            answer["repositories"] = [
                {"id": number, "name": self.repositories[number]} for number in made.repositories
            ]
        return web.json_response({**answer, **self.widens}, status=201)

    def wanted(self, body: Mapping[str, Any]) -> set[int]:
        names = {name: number for number, name in self.repositories.items()}
        named = {names.get(name.lower(), -1) for name in body.get("repositories", [])}
        return {*body.get("repository_ids", []), *named}

    def scope_fault(self, body: Mapping[str, Any], wanted: set[int]) -> web.Response | None:
        if not wanted <= set(self.repositories):
            return fault(
                422,
                "There is at least one repository that does not exist or is not accessible to "
                "the parent installation.",
            )
        for name, level in body.get("permissions", {}).items():
            held = self.granted.get(name)
            if level not in LEVELS or held is None or LEVELS.index(level) > LEVELS.index(held):
                return fault(422, "The permissions requested are not granted to this installation.")
        return None

    # --- with a token ---

    def token(self, request: web.Request) -> Token | None:
        token = self.tokens.get(bearer(request))
        return token if token is not None and token.expires > self.now() else None

    async def revoke(self, request: web.Request) -> web.Response:
        if self.token(request) is None:
            return fault(401, "Bad credentials")
        if not self.forgetful:
            del self.tokens[bearer(request)]
        return web.Response(status=204)

    async def listed(self, request: web.Request) -> web.Response:
        token = self.token(request)
        if token is None:
            return fault(401, "Bad credentials")
        found = [{"id": n, "name": self.repositories[n]} for n in sorted(token.repositories)]
        return web.json_response(
            {"total_count": len(found), "repositories": found[: int(request.query["per_page"])]}
        )

    async def content(self, request: web.Request) -> web.Response:
        return self.used(request, "contents") or web.json_response({"content": "aGk="})

    async def issues(self, request: web.Request) -> web.Response:
        return self.used(request, "issues") or web.json_response([])

    def used(self, request: web.Request, permission: str) -> web.Response | None:
        token = self.token(request)
        if token is None:
            return fault(401, "Bad credentials")
        allowed = {f"{ORGANIZATION}/{self.repositories[n]}" for n in token.repositories}
        if f"{request.match_info['owner']}/{request.match_info['repo']}" not in allowed:
            return fault(404, "Not Found")
        if permission not in token.permissions:
            return fault(403, "Resource not accessible by integration")
        return None


def bearer(request: web.Request) -> str:
    return request.headers.get("Authorization", "").removeprefix("Bearer ")


def fault(status: int, message: str) -> web.Response:
    return web.json_response({"message": message}, status=status)


@contextlib.asynccontextmanager
async def github_server() -> AsyncIterator[GitHub]:
    """Run a GitHub while the block runs."""
    made = GitHub(RSAKey.generate_key(2048), free_port())
    await made.up()
    try:
        yield made
    finally:
        if made.hold is not None:
            made.hold.set()
        await made.down()
