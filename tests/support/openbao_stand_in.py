"""A stand-in for OpenBao in the test's own loop: it keeps what was made, and may answer badly.

It does what it is asked before it answers, so that a bad answer is one that hides what was done.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Answer = tuple[int, object]
Bad = Callable[[asyncio.StreamWriter], Awaitable[None]]
"""Writes an answer of its own; the connection is closed afterwards."""

REMITS = "s.remits-own-token"
CREATE, SECRET = "auth/token/create", "database/creds/x"
LOOK, REVOKE, LIST = (
    f"auth/token/{each}" for each in ("lookup-accessor", "revoke-accessor", "accessors")
)
LOOK_LEASE, REVOKE_LEASE = "sys/leases/lookup", "sys/leases/revoke"
_DENIED: Answer = (403, {"errors": ["permission denied"]})
_NOTHING: Answer = (204, None)


@dataclass
class StandIn:
    """``tokens``: by accessor, what made each; ``leases``: by name, the token each hangs on."""

    url: str = ""
    own: set[str] = field(default_factory=lambda: {REMITS})
    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)
    leases: dict[str, str] = field(default_factory=dict)
    bad: dict[str, Bad] = field(default_factory=dict)
    asked: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)
    logins: int = 0
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def of(self, path: str) -> list[Mapping[str, str]]:
        """Return the headers of each request for a path."""
        return [headers for _, asked, headers in self.asked if asked == path]

    def standing(self) -> set[str]:
        """Return all that was made and lives."""
        return {*self.tokens, *self.leases}

    def do(self, path: str, token: str, body: Mapping[str, Any]) -> Answer:
        """Do what is asked, and return what OpenBao would answer."""
        if path.startswith("auth/") and path.endswith("/login"):
            return self._log_in()
        if path == SECRET:
            return self._read(token)
        if path == "auth/token/revoke-self":
            return self._log_out(token)
        if token not in self.own:
            return _DENIED
        does = {
            CREATE: lambda body: self._create({**body, "parent": token}),
            LOOK: self._look,
            REVOKE: self._revoke,
            LIST: lambda _: (200, {"data": {"keys": list(self.tokens)}}),
            REVOKE_LEASE: self._revoke_lease,
            LOOK_LEASE: self._look_at_lease,
        }
        return does[path](body)

    def _log_in(self) -> Answer:
        self.logins += 1
        token = f"s.login-{self.logins}"
        self.own.add(token)
        return 200, {"auth": {"client_token": token, "lease_duration": 3600}}

    def _log_out(self, token: str) -> Answer:
        self.own.discard(token)
        for accessor in [k for k, v in self.tokens.items() if v["parent"] == token]:
            self._revoke({"accessor": accessor})
        return _NOTHING

    def _create(self, body: Mapping[str, Any]) -> Answer:
        accessor = f"acc{next(self._numbers)}"
        self.tokens[accessor] = dict(body)
        token = f"s.child-{accessor}"
        auth = {"client_token": token, "accessor": accessor, "lease_duration": 60}
        return 200, {"auth": auth}

    def _look(self, body: Mapping[str, Any]) -> Answer:
        if body["accessor"] not in self.tokens:
            return 403, {"errors": ["1 error occurred:\n\t* invalid accessor\n\n"]}
        return 200, {"data": {"meta": self.tokens[body["accessor"]]["meta"]}}

    def _revoke(self, body: Mapping[str, Any]) -> Answer:
        if self.tokens.pop(body["accessor"], None) is None:
            return 400, {"errors": ["invalid accessor"]}
        for lease in [k for k, v in self.leases.items() if v == body["accessor"]]:
            del self.leases[lease]
        return _NOTHING

    def _revoke_lease(self, body: Mapping[str, Any]) -> Answer:
        self.leases.pop(body["lease_id"], None)
        return _NOTHING

    def _look_at_lease(self, body: Mapping[str, Any]) -> Answer:
        if body["lease_id"] not in self.leases:
            return 400, {"errors": ["invalid lease"]}
        return 200, {"data": {"id": body["lease_id"]}}

    def _read(self, token: str) -> Answer:
        accessor = token.removeprefix("s.child-")
        if accessor not in self.tokens:
            return _DENIED
        lease = f"{SECRET}/{next(self._numbers)}"
        self.leases[lease] = accessor
        return 200, {"lease_id": lease, "data": {"username": "u", "password": "p" * 20}}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")[:-2]
        method, target, _ = first.split()
        named = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in named}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        path = target.removeprefix("/v1/").partition("?")[0]
        self.asked.append((method, path, headers))
        said = self.do(path, headers.get("x-vault-token", ""), json.loads(body or b"{}"))
        if path in self.bad:
            await self.bad[path](writer)
            return False
        writer.write(answer(*said))
        return True


def answer(status: int, said: object, *more: str, length: int | None = None) -> bytes:
    """Return an answer's bytes; ``length`` is what it says of itself."""
    data = b"" if said is None else said if isinstance(said, bytes) else json.dumps(said).encode()
    head = [
        f"HTTP/1.1 {status} Said",
        "Content-Type: application/json",
        f"Content-Length: {len(data) if length is None else length}",
        *more,
    ]
    return "\r\n".join([*head, "", ""]).encode() + data


@contextlib.asynccontextmanager
async def openbao_stand_in(tls: ssl.SSLContext | None = None) -> AsyncIterator[StandIn]:
    """Serve it on loopback while the block runs."""
    made = StandIn()
    serving: set[asyncio.Task[None]] = set()

    def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(made.serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    server = await asyncio.start_server(one, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    made.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield made
    finally:
        server.close()
        for each in list(serving):
            each.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await server.wait_closed()
