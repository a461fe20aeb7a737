"""A lease's client certificate, shown in the handshake of its own connections and of no other's."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)
from nginx import server_certificate

from remit.credentials.certificates.authority import Authority, Leaf, private_text, sign_leaf
from remit.gateway.egress.front import Egress
from remit.gateway.egress.operations import Operation, Operations
from remit.gateway.egress.service import Service
from remit.gateway.injection import Injection
from remit.gateway.leaks import LeakGuard
from remit.gateway.options import GatewayOptions, UpstreamOptions
from remit.gateway.presenting import presenting
from remit.model.errors import ConfigError, UpstreamError
from remit.model.lease import Credential
from remit.model.outcome import Ending

HEADERS = {"Authorization": "Bearer {token}"}
RESULT = b'{"jsonrpc":"2.0","id":1,"result":{"content":[],"resultType":"complete"}}'


@dataclass(frozen=True)
class Heard:
    """One request: over which connection, under which certificate, with which token."""

    connection: int
    resumed: bool
    shown: str | None
    token: str


@dataclass
class Secured:
    """A server that keeps its connections for as long as a client likes, and resumes sessions."""

    folder: Path
    authority: Authority
    port: int = 0
    body: bytes = RESULT
    hang: bool = False
    heard: list[Heard] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    _connections: Any = field(default_factory=itertools.count)
    _serials: Any = field(default_factory=lambda: itertools.count(1))
    _serving: set[asyncio.Task[None]] = field(default_factory=set)

    def lease(self, name: str) -> Credential:
        """Return what a broker would mint."""
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        leaf = Leaf(
            serial=next(self._serials),
            common_name=name,
            organization=(),
            uri=f"spiffe://remit.test/agent/{name}",
            now=now,
            until=now + timedelta(minutes=2),
        )
        certificate = sign_leaf(self.authority, key, leaf)
        values = {"token": name, "bundle": private_text(key) + certificate}
        return Credential(values=values, lease=f"lease_{name}")

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        await asyncio.wait({task})
        writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, tls = next(self._connections), writer.get_extra_info("ssl_object")
        shown = tls.getpeercert()
        name = dict(pair for part in shown["subject"] for pair in part) if shown else {}
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                lines = dict(
                    line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line
                )
                await reader.readexactly(int(lines.get("content-length", "0")))
                token = lines.get("authorization", "").removeprefix("bearer ")
                self.heard.append(Heard(number, tls.session_reused, name.get("commonName"), token))
                self.came.set()
                if self.hang:
                    await reader.read()
                    break
                length = f"content-length: {len(self.body)}\r\n"
                kind = "content-type: application/json\r\n"
                writer.write(f"HTTP/1.1 200 OK\r\n{kind}{length}\r\n".encode() + self.body)
                await writer.drain()
        self.left.set()

    async def close(self) -> None:
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)


@pytest.fixture
async def secured(tmp_path: Path) -> AsyncIterator[Secured]:
    server_certificate(tmp_path)
    authority = Authority.own(
        tmp_path / "ca.key", tmp_path / "ca.pem", "tests", lambda: datetime.now(UTC), "here"
    )
    made = Secured(tmp_path, authority)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    context.load_verify_locations(tmp_path / "ca.pem")
    context.verify_mode = ssl.CERT_OPTIONAL
    server = await asyncio.start_server(made.accept, "127.0.0.1", 0, ssl=context)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()
    await made.close()


def upstream(secured: Secured, **changes: Any) -> UpstreamOptions:
    given = {
        "name": "up",
        "url": f"https://127.0.0.1:{secured.port}/mcp",
        "ca_file": secured.folder / "server.crt",
        "inject": Injection(headers=HEADERS, tls="{bundle}"),
    }
    return UpstreamOptions(**(given | changes))


async def call(stand: Any, method: str = "tools/call") -> Any:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params: dict[str, Any] = {"_meta": meta}
    headers = {"mcp_protocol_version": "2026-07-28", "mcp_method": method}
    if method == "tools/call":
        params |= {"name": "echo", "arguments": {}}
        headers["mcp_name"] = "echo"
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return await stand.post(json.dumps(message), **headers)


async def test_each_call_of_a_lease_is_a_connection_of_its_own_under_its_certificate(
    stand: Any, secured: Secured
):
    async with stand(upstream(secured)) as made:
        for name in ("one", "two", "one"):
            made.authority.credential = secured.lease(name)
            assert json.loads((await call(made)).text)["result"] == {
                "content": [],
                "resultType": "complete",
            }
    assert [(each.shown, each.token) for each in secured.heard] == [
        ("one", "one"), ("two", "two"), ("one", "one"),
    ]  # fmt: skip
    assert len({each.connection for each in secured.heard}) == 3
    assert not any(each.resumed for each in secured.heard)


async def test_calls_at_once_do_not_mix_certificates_and_tokens(stand: Any, secured: Secured):
    async with stand(upstream(secured)) as made:
        authority = made.authority
        leases = {f"lease-{number}": secured.lease(f"lease-{number}") for number in range(8)}
        waiting = iter(leases.values())
        perform = authority.perform

        async def performing(claim: Any, asked: Any, act: Any, whole: Any, **more: Any) -> Any:
            credential = next(waiting)

            async def acting(call: Any, decision: Any, _: Any) -> Any:
                return await act(call, decision, credential)

            return await perform(claim, asked, acting, whole, **more)

        made.gateway.house.perform = performing
        await asyncio.gather(*(call(made) for _ in leases))
    assert {each.shown for each in secured.heard} == leases.keys()
    assert all(each.shown == each.token for each in secured.heard)
    assert len({each.connection for each in secured.heard}) == len(leases)


async def test_what_no_decision_was_made_about_shows_no_certificate_and_finds_no_connection(
    stand: Any, secured: Secured
):
    async with stand(upstream(secured)) as made:
        made.authority.credential = secured.lease("one")
        await call(made)
        secured.body = b'{"jsonrpc":"2.0","id":1,"result":{"tools":[],"resultType":"complete"}}'
        await call(made, "tools/list")
        await call(made, "tools/list")
    first, *listings = secured.heard
    assert first.shown == "one"
    assert [(each.shown, each.token) for each in listings] == [(None, ""), (None, "")]
    assert first.connection not in {each.connection for each in listings}


async def test_a_lease_that_ends_takes_its_connection_with_it(stand: Any, secured: Secured):
    secured.hang = True
    async with stand(upstream(secured)) as made:
        made.authority.credential = secured.lease("one")
        calling = asyncio.create_task(call(made))
        await asyncio.wait_for(secured.came.wait(), 10)
        await made.authority.leases.end("lease_one")
        await asyncio.wait_for(secured.left.wait(), 10)
        assert "taken back" in (await calling).text
        assert made.authority.outcomes[-1].ending is Ending.UNKNOWN


@pytest.mark.parametrize(
    "bundle", ["", "no pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
async def test_what_is_no_certificate_is_not_delivered_and_not_shown(
    stand: Any, secured: Secured, bundle: str
):
    async with stand(upstream(secured)) as made:
        made.authority.credential = Credential(values={"token": "one", "bundle": bundle})
        said = (await call(made)).text
    assert "no private key with its certificate" in said
    assert not secured.heard
    assert "AAAA" not in said


async def test_a_value_that_the_broker_does_not_give_is_named(stand: Any, secured: Secured):
    async with stand(upstream(secured)) as made:
        made.authority.credential = Credential(values={"token": "one"})
        assert "gives no `{bundle}`" in (await call(made)).text
    assert not secured.heard


async def test_an_upstream_that_its_own_authorities_do_not_vouch_for_gets_no_certificate(
    stand: Any, secured: Secured
):
    for ca_file in (None, secured.folder / "ca.pem"):
        async with stand(upstream(secured, ca_file=ca_file)) as made:
            made.authority.credential = secured.lease("one")
            assert "a certificate that does not hold" in (await call(made)).text
    assert not secured.heard


async def test_a_service_is_called_over_a_connection_of_the_lease(
    stand: Any, serve: Any, secured: Secured
):
    secured.body = b"{}"
    service = Service(
        name="shop",
        url=f"https://127.0.0.1:{secured.port}",
        operations=Operations([Operation(name="orders", method="GET", path="/orders")]),
        private=True,
        ca_file=secured.folder / "server.crt",
        inject=Injection(headers=HEADERS, tls="{bundle}"),
    )
    async with stand() as made:
        egress = Egress(
            authority=made.authority,
            services={"shop": service},
            options=GatewayOptions(),
            perform=made.authority.perform,
            call_id=lambda: "call_1",
            guard=LeakGuard(dict),
        )
        sent = {"authorization": "Bearer token-a", "remit-task": "a:task_1"}
        async with serve(egress) as url, aiohttp.ClientSession() as http:
            for credential, status in (
                (secured.lease("one"), 200),
                (secured.lease("two"), 200),
                (Credential(values={"token": "x", "bundle": "no pem"}), 502),
            ):
                made.authority.credential = credential
                async with http.get(f"{url}/egress/shop/orders", headers=sent) as got:
                    assert got.status == status
        await egress.close()
    assert [(each.shown, each.token) for each in secured.heard] == [("one", "one"), ("two", "two")]
    assert len({each.connection for each in secured.heard}) == 2
    assert not any(each.resumed for each in secured.heard)


def test_a_place_in_the_handshake_wants_tls_and_a_value_of_the_broker(secured: Secured):
    with pytest.raises(ConfigError, match="`tls` names no value of the broker"):
        Injection(tls="client.pem")
    with pytest.raises(ConfigError, match="`tls` belongs to a `url` of https"):
        upstream(secured, url="http://127.0.0.1:1/mcp", ca_file=None)
    with pytest.raises(ConfigError, match="`ca_file` belongs to a `url` of https"):
        upstream(secured, url=None, command=("x",), inject=Injection())
    operations = Operations([Operation(name="orders", method="GET", path="/orders")])
    with pytest.raises(ConfigError, match="`tls` belongs to a `url` of https"):
        Service(
            name="shop",
            url="http://127.0.0.1:1",
            operations=operations,
            private=True,
            inject=Injection(tls="{bundle}"),
        )


async def test_a_file_of_authorities_that_cannot_be_read_stops_the_start(
    stand: Any, secured: Secured
):
    with pytest.raises(ConfigError, match="upstream `up`: `ca_file`"):
        async with stand(upstream(secured, ca_file=secured.folder / "none.pem")):
            pass


def test_a_key_leaves_no_file_and_asks_nobody_for_a_passphrase(
    secured: Secured, monkeypatch: pytest.MonkeyPatch
):
    before = set(secured.folder.iterdir())
    bundle = secured.lease("one").values["bundle"]
    presenting(bundle, None)
    monkeypatch.delattr("os.memfd_create")  # as on systems without
    monkeypatch.setattr("tempfile.tempdir", str(secured.folder))
    presenting(bundle, None)
    assert set(secured.folder.iterdir()) == before
    locked = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word")
    )
    certificate = secured.authority.certificate.public_bytes(Encoding.PEM)
    with pytest.raises(UpstreamError, match="no private key"):
        presenting((locked + certificate).decode(), None)
