"""A Kubernetes API server for tests, on loopback: secrets, TokenRequest, TokenReview, and RBAC's no.

It follows the published OpenAPI description of these routes, and what kube-apiserver's own source
says about bound tokens: what a request is refused for, that a bound secret is looked for at every
use by name and uid, a minute of leeway, and a memory of ten seconds for tokens that were good. Apart
from the broker, of which it imports nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey
from processes import free_port

NAMESPACE = "agents"
AUDIENCE = "https://kubernetes.default.svc"
LEEWAY_SECONDS = 60
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?\Z")


@dataclass
class Cluster:
    """One namespace with service accounts; ``admin`` is Remit's own token."""

    port: int
    key: ECKey = field(default_factory=lambda: ECKey.generate_key("P-256"))
    admin: str = field(default_factory=lambda: f"admin-{secrets.token_hex(16)}")
    accounts: dict[str, str] = field(
        default_factory=lambda: {"deployer": str(uuid.uuid4()), "viewer": str(uuid.uuid4())}
    )
    secrets: dict[str, dict[str, Any]] = field(default_factory=dict)
    ahead: float = 0
    remembers_seconds: float = 0
    remembered: dict[tuple[str, tuple[str, ...]], float] = field(default_factory=dict)
    forbidden: set[str] = field(default_factory=set)
    """What Remit's role leaves out: `create secrets`, `create tokenreviews`, …"""
    failing: set[str] = field(default_factory=set)
    """What fails with 500, having been done."""
    finalizers: bool = False
    unbound: bool = False
    page: int = 500
    asked: list[str] = field(default_factory=list)
    hold: asyncio.Event | None = None
    holding: asyncio.Event = field(default_factory=asyncio.Event)
    runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def now(self) -> float:
        return time.time() + self.ahead

    async def up(self) -> None:
        app = web.Application(middlewares=[self.front])
        core, reviews = f"/api/v1/namespaces/{NAMESPACE}", "/apis/authentication.k8s.io/v1"
        app.router.add_post(f"{core}/secrets", self.create)
        app.router.add_get(f"{core}/secrets", self.listed)
        app.router.add_get(f"{core}/secrets/{{name}}", self.get)
        app.router.add_delete(f"{core}/secrets/{{name}}", self.delete)
        app.router.add_post(f"{core}/serviceaccounts/{{name}}/token", self.token_request)
        app.router.add_post(f"{reviews}/tokenreviews", self.token_review)
        app.router.add_get(f"{core}/pods", self.pods)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def down(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()
            self.runner = None

    @web.middleware
    async def front(self, request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            response: web.StreamResponse = await handler(request)
        except web.HTTPNotFound:
            return fault(404, "NotFound")
        return response

    def refused(self, request: web.Request, what: str) -> web.Response | None:
        self.asked.append(what)
        if bearer(request) != self.admin:
            return fault(401, "Unauthorized")
        return fault(403, "Forbidden") if what in self.forbidden else None

    # --- secrets ---

    async def create(self, request: web.Request) -> web.Response:
        if (bad := self.refused(request, "create secrets")) is not None:
            return bad
        body = await request.json()
        name = body["metadata"]["name"]
        if not _NAME.match(name) or any(
            len(value) > 63 for value in body["metadata"].get("labels", {}).values()
        ):
            return fault(422, "Invalid", "Secret", name)
        if name in self.secrets:
            return fault(409, "AlreadyExists", "secrets", name)
        if self.hold is not None:
            self.holding.set()
            await self.hold.wait()
        self.secrets[name] = {**body, "metadata": {**body["metadata"], "uid": str(uuid.uuid4())}}
        if "create secrets" in self.failing:
            return fault(500, "InternalError")
        return web.json_response(metadata(request, self.secrets[name]), status=201)

    async def get(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if (bad := self.refused(request, "get secrets")) is not None:
            return bad
        if name not in self.secrets:
            return fault(404, "NotFound", "secrets", name)
        return web.json_response(metadata(request, self.secrets[name]))

    async def delete(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if (bad := self.refused(request, "delete secrets")) is not None:
            return bad
        if name not in self.secrets:
            return fault(404, "NotFound", "secrets", name)
        if self.finalizers:
            self.secrets[name]["metadata"].setdefault("deletionTimestamp", stamp(self.now()))
            return web.json_response(metadata(request, self.secrets[name]))
        del self.secrets[name]
        said = {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        return web.json_response({**said, "details": {"kind": "secrets", "name": name}})

    async def listed(self, request: web.Request) -> web.Response:
        if (bad := self.refused(request, "list secrets")) is not None:
            return bad
        key, _, value = request.query["labelSelector"].partition("=")
        found = [
            each
            for _, each in sorted(self.secrets.items())
            if each["metadata"].get("labels", {}).get(key) == value
        ]
        begin, size = int(request.query.get("continue", 0)), self.page
        page = found[begin : begin + size]
        more = str(begin + size) if begin + size < len(found) else ""
        return web.json_response(
            {
                "kind": "PartialObjectMetadataList",
                "metadata": {"continue": more},
                "items": [metadata(request, each) for each in page] or None,  # null, as Go says it
            }
        )

    # --- tokens ---

    async def token_request(self, request: web.Request) -> web.Response:
        if (bad := self.refused(request, "create serviceaccounts/token")) is not None:
            return bad
        account, body = request.match_info["name"], await request.json()
        if account not in self.accounts:
            return fault(404, "NotFound", "serviceaccounts", account)
        spec = body["spec"]
        seconds, reference = spec.get("expirationSeconds", 3600), spec.get("boundObjectRef")
        if (bad := self.request_fault(seconds, reference)) is not None:
            return bad
        bound = self.secrets[reference["name"]] if reference is not None else None
        audiences = spec.get("audiences") or [AUDIENCE]
        now = self.now()
        private: dict[str, Any] = {
            "namespace": NAMESPACE,
            "serviceaccount": {"name": account, "uid": self.accounts[account]},
        }
        if bound is not None and not self.unbound:
            private["secret"] = {key: bound["metadata"][key] for key in ("name", "uid")}
        claims = {
            "iss": AUDIENCE,
            "sub": f"system:serviceaccount:{NAMESPACE}:{account}",
            "aud": audiences,
            "iat": int(now),
            "nbf": int(now),
            "exp": int(now) + seconds,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": private,
        }
        token = jwt.encode({"alg": "ES256"}, claims, self.key)
        if "create serviceaccounts/token" in self.failing:
            return fault(500, "InternalError")
        said = {**spec, "audiences": audiences, "expirationSeconds": seconds}
        if self.unbound:
            del said["boundObjectRef"]
        status = {"token": token, "expirationTimestamp": stamp(now + seconds)}
        return web.json_response({**body, "spec": said, "status": status}, status=201)

    def request_fault(self, seconds: int, reference: dict[str, Any] | None) -> web.Response | None:
        if not 600 <= seconds <= 2**32:
            return fault(422, "Invalid", "TokenRequest")
        if reference is None:
            return None
        if (reference["kind"], reference["apiVersion"]) != ("Secret", "v1"):
            return fault(400, "BadRequest")
        bound = self.secrets.get(reference["name"])
        if bound is None:
            return fault(404, "NotFound", "secrets", reference["name"])
        if reference.get("uid") not in {None, bound["metadata"]["uid"]}:
            return fault(409, "Conflict", "Secret", reference["name"])
        return None

    def authenticate(self, token: str, audiences: list[str]) -> str | None:
        """Return whose token it is; None where it is nobody's any more."""
        asked = (token, tuple(audiences))
        if self.remembered.get(asked, 0) > self.now():
            return "remembered"
        try:
            claims = jwt.decode(token, self.key).claims
        except (JoseError, ValueError):
            return None
        private = claims["kubernetes.io"]
        account, bound = private["serviceaccount"], private.get("secret")
        if claims["exp"] + LEEWAY_SECONDS < self.now() or not set(claims["aud"]) & set(audiences):
            return None
        if self.accounts.get(account["name"]) != account["uid"]:
            return None
        if bound is not None and not self.stands(bound):
            return None
        self.remembered[asked] = self.now() + self.remembers_seconds
        return str(claims["sub"])

    def stands(self, bound: dict[str, str]) -> bool:
        """Whether a bound secret is there; one that waits for a finalizer is for a minute."""
        found = self.secrets.get(bound["name"])
        if found is None or found["metadata"]["uid"] != bound["uid"]:
            return False
        deleted = found["metadata"].get("deletionTimestamp")
        since = datetime.fromisoformat(deleted).timestamp() if deleted else self.now()
        return since >= self.now() - LEEWAY_SECONDS

    async def token_review(self, request: web.Request) -> web.Response:
        if (bad := self.refused(request, "create tokenreviews")) is not None:
            return bad
        body = await request.json()
        audiences = body["spec"].get("audiences") or [AUDIENCE]
        who = self.authenticate(body["spec"]["token"], audiences)
        status: dict[str, Any] = {
            "authenticated": True,
            "user": {"username": who},
            "audiences": audiences,
        }
        if who is None:
            status = {"error": "invalid bearer token, service account token has been invalidated"}
        return web.json_response({**body, "status": status}, status=201)

    async def pods(self, request: web.Request) -> web.Response:
        if self.authenticate(bearer(request), [AUDIENCE]) is None:
            return fault(401, "Unauthorized")
        return web.json_response({"kind": "PodList", "items": []})


def metadata(request: web.Request, secret: dict[str, Any]) -> dict[str, Any]:
    assert "PartialObjectMetadata" in request.headers["Accept"], (
        "secrets' contents are not Remit's to read"
    )
    return {"kind": "PartialObjectMetadata", "metadata": secret["metadata"]}


def bearer(request: web.Request) -> str:
    return request.headers.get("Authorization", "").removeprefix("Bearer ")


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def fault(status: int, reason: str, kind: str = "", name: str = "") -> web.Response:
    body: dict[str, Any] = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "message": "k3y: said to nobody",
        "code": status,
    }
    if kind:
        body["details"] = {"kind": kind, **({"name": name} if name else {})}
    return web.json_response(body, status=status)


@contextlib.asynccontextmanager
async def kubernetes_server() -> AsyncIterator[Cluster]:
    """Run an API server while the block runs."""
    made = Cluster(free_port())
    await made.up()
    try:
        yield made
    finally:
        if made.hold is not None:
            made.hold.set()
        await made.down()
