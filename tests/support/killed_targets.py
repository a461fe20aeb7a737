"""Targets whose leasing process is killed, each with a way to ask the target itself what stands.

None of these answers comes from a broker: they come from the database's superuser, from OpenBao's
root, from the server's own memory, from a login.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import hvac
import psycopg
from certificate_house import page_script, surroundings
from github_server import CLIENT_ID, INSTALLATION, github_server
from kubernetes_server import NAMESPACE, kubernetes_server
from leases_under_load import INSTALLATION as OURS
from leases_under_load import Desk
from nginx import Nginx, nginx
from openbao import openbao_server
from openssh import ACCOUNT, USER, keygen, sshd
from postgres import postgres_server
from postgres_crm import Seat, lay, options
from processes import free_port

from remit.plugins import load_broker

Table = Callable[[int], dict[str, Any]]
TIMEOUT_SECONDS = 5.0


async def _nothing() -> set[str]:
    return set()


@dataclass(kw_only=True)
class Target:
    """One running server.

    ``table``: the broker's, reaching the server on a port. ``port`` is the server's; None where it
    is told by files alone. ``standing``: what it holds of ours. ``accepts``: whether it takes a
    credential, used for real. ``ends``: until when each lives that nothing can take back, by name,
    by the target's own word; None where everything can be. ``names_are_ours``: that name is the
    lease's handle. ``hurried``: makes a table that gives up early.
    """

    grant: dict[str, Any]
    table: Table
    port: int | None
    standing: Callable[[], Awaitable[set[str]]]
    accepts: Callable[[Mapping[str, str]], Awaitable[bool]]
    down: Callable[[], Awaitable[None]]
    up: Callable[[], Awaitable[None]]
    moved: Callable[[timedelta], None] = field(default=lambda _: None)
    ends: Callable[[], Awaitable[Mapping[str, datetime]]] | None = None
    names_are_ours: bool = True
    end_of: Callable[[Mapping[str, str]], datetime] | None = None
    """Until when a credential is taken, as it says itself."""
    hurried: Callable[[dict[str, Any]], dict[str, Any]] = field(
        default=lambda table: {**table, "timeout_seconds": 0.3}
    )
    met: Callable[[Desk], None] = field(default=lambda _: None)
    """Is told of each restart."""
    cleared: Callable[[], Awaitable[object]] = field(default=_nothing)
    """Is told when all of one life is over."""
    forgotten: Callable[[], None] = field(default=lambda: None)
    """Is told when the book begins anew, and may forget old leases as well."""
    book_lives: int = 20
    """After how many lives under load the book begins anew."""
    slow: bool = False
    """A revocation takes seconds."""
    at_expiry: bool = False
    """It takes nothing back."""
    names_itself: bool = False
    """By the address that it is asked at."""
    forgets: bool = False
    """Whatever was minted is over with the process that minted it."""

    @property
    def direct(self) -> dict[str, Any]:
        """The table that reaches the server itself."""
        return self.table(self.port or 0)


@asynccontextmanager
async def postgres(folder: Path) -> AsyncIterator[Target]:
    """A role for each lease."""
    with postgres_server(fsync=True) as server:
        lay(server)
        seat, given = Seat(server), options(server, folder)

        async def accepts(values: Mapping[str, str]) -> bool:
            address = {key: values[key] for key in ("host", "password")}
            try:
                connection = await psycopg.AsyncConnection.connect(
                    **address, user=values["username"], port=server.port, dbname="crm"
                )
            except psycopg.OperationalError:
                return False
            async with connection:
                await connection.execute("SELECT name FROM crm.customer")
            return True

        async def standing() -> set[str]:
            sessions = (
                "SELECT usename::text FROM pg_stat_activity WHERE starts_with(usename::text, %s)"
            )
            held = await asyncio.to_thread(seat.ask, sessions, OURS)
            return await asyncio.to_thread(seat.roles, OURS) | {row[0] for row in held}

        yield Target(
            grant={"tables": [{"schema": "crm", "table": "customer"}]},
            table=lambda port: {
                **given,
                "kind": "postgres",
                "port": port,
                "timeout_seconds": TIMEOUT_SECONDS,
            },
            port=server.port,
            standing=standing,
            accepts=accepts,
            down=lambda: asyncio.to_thread(server.stop),
            up=lambda: asyncio.to_thread(server.start),
        )


_READER = """\
path "auth/token/lookup-self" { capabilities = ["read"] }
path "pki/issue/web" { capabilities = ["update"] }
"""
_SECRET = {
    "secret": "pki/issue/web",
    "parameters": {"common_name": "agent.example"},
    "send_ttl": True,
}


@asynccontextmanager
async def openbao(folder: Path, secret: Mapping[str, Any] | None = None) -> AsyncIterator[Target]:
    """A token for each lease, and with ``secret`` a certificate of an engine that gives leases."""
    with openbao_server() as server:
        root = server.root
        root.sys.create_or_update_policy("reader", _READER)
        server.role("reader", "default")
        root.sys.enable_secrets_engine("pki")
        root.write("pki/root/generate/internal", common_name="ca", key_type="ec", key_bits=256)
        root.write(
            "pki/roles/web",
            allow_any_name=True,
            key_type="ec",
            key_bits=256,
            generate_lease=True,
            max_ttl="1h",
        )
        token = server.remits_token(folder)
        before = server.accessors()

        def has_token(accessor: str) -> bool:
            """OpenBao leaves an accessor behind, now and then, whose token is gone."""
            try:
                root.auth.token.lookup_accessor(accessor)
            except (hvac.exceptions.Forbidden, hvac.exceptions.InvalidRequest):
                return False
            return True

        def asked() -> set[str]:
            found = {each for each in server.accessors() - before if has_token(each)}
            with contextlib.suppress(hvac.exceptions.InvalidPath):
                found |= set(root.sys.list_leases("pki/issue/web")["data"]["keys"])
            return found

        async def accepts(values: Mapping[str, str]) -> bool:
            client = server.client(values["token"])
            try:
                await asyncio.to_thread(client.auth.token.lookup_self)
            except hvac.exceptions.Forbidden:
                return False
            finally:
                client.adapter.close()
            return True

        async def down() -> None:
            server.stop()

        async def up() -> None:
            server.go_on()

        yield Target(
            grant={"policies": ["reader"], **(secret or {})},
            table=lambda port: {
                "kind": "openbao",
                "url": f"http://127.0.0.1:{port}",
                "token_role": "remit",
                "token_file": str(token),
                "timeout_seconds": 1.0,
            },
            port=int(server.url.rpartition(":")[2]),
            standing=lambda: asyncio.to_thread(asked),
            accepts=accepts,
            down=down,
            up=up,
        )


def openbao_secret(folder: Path) -> contextlib.AbstractAsyncContextManager[Target]:
    """A token and a dynamic secret for each lease."""
    return openbao(folder, _SECRET)


@asynccontextmanager
async def github(folder: Path) -> AsyncIterator[Target]:
    """An installation token for each lease, whose name GitHub alone chooses."""
    key = folder / "app.pem"
    key.touch(mode=0o600)
    async with github_server() as server, aiohttp.ClientSession(trust_env=False) as http:
        key.write_bytes(server.key.as_pem(private=True))

        async def accepts(values: Mapping[str, str]) -> bool:
            headers = {"Authorization": f"Bearer {values['token']}"}
            url = f"{server.url}/repos/corp/site/contents/README.md"
            async with http.get(url, headers=headers) as answer:
                return answer.status == 200

        async def ends() -> Mapping[str, datetime]:
            return {
                word: datetime.fromtimestamp(made.expires, UTC)
                for word, made in server.tokens.items()
                if made.expires > server.now()
            }

        async def standing() -> set[str]:
            return set(await ends())

        def moved(ahead: timedelta) -> None:
            server.ahead = ahead.total_seconds()
            for word in [w for w, made in server.tokens.items() if made.expires <= server.now()]:
                del server.tokens[word]  # or they would live again when the clock goes back

        yield Target(
            grant={"repositories": ["site"], "permissions": {"contents": "read"}},
            table=lambda port: {
                "kind": "github",
                "client_id": CLIENT_ID,
                "private_key_file": str(key),
                "installation_id": INSTALLATION,
                "api_url": f"http://127.0.0.1:{port}",
                "timeout_seconds": TIMEOUT_SECONDS,
            },
            port=server.port,
            standing=standing,
            accepts=accepts,
            down=server.down,
            up=server.up,
            moved=moved,
            ends=ends,
            names_are_ours=False,
        )


@asynccontextmanager
async def kubernetes(folder: Path) -> AsyncIterator[Target]:
    """A service account's token for each lease, bound to a secret of the lease's."""
    token = folder / "token"
    token.touch(mode=0o600)
    async with kubernetes_server() as server, aiohttp.ClientSession(trust_env=False) as http:
        token.write_text(server.admin + "\n")

        async def accepts(values: Mapping[str, str]) -> bool:
            headers = {"Authorization": f"Bearer {values['token']}"}
            url = f"{server.url}/api/v1/namespaces/{NAMESPACE}/pods"
            async with http.get(url, headers=headers) as answer:
                return answer.status == 200

        async def standing() -> set[str]:
            return set(server.secrets)

        yield Target(
            grant={"service_account": "deployer"},
            table=lambda port: {
                "kind": "kubernetes",
                "url": f"http://127.0.0.1:{port}",
                "namespace": NAMESPACE,
                "token_file": str(token),
                "timeout_seconds": TIMEOUT_SECONDS,
            },
            port=server.port,
            standing=standing,
            accepts=accepts,
            down=server.down,
            up=server.up,
        )


@asynccontextmanager
async def ssh(folder: Path) -> AsyncIterator[Target]:
    """A certificate for each lease, and a list that sshd reads at every login."""
    lists, numbers = folder / "lists", itertools.count()
    lists.mkdir()
    authority = folder / "state/brokers/target.pub"
    with sshd(folder / "sshd", authority, lists / "revoked.krl") as server:

        async def accepts(values: Mapping[str, str]) -> bool:
            own = folder / f"client-{next(numbers)}"
            done = await asyncio.to_thread(server.login, values, "true", folder=own)
            assert done.returncode == 0 or "Permission denied (publickey)" in done.stderr, done
            return done.returncode == 0

        yield Target(
            grant={"principals": [ACCOUNT]},
            table=lambda _: {"kind": "ssh", "krl": {"file": "lists/revoked.krl"}},
            port=None,
            standing=_nothing,
            accepts=accepts,
            down=lambda: asyncio.to_thread(_move, lists, folder / "away"),
            up=lambda: asyncio.to_thread(_move, folder / "away", lists),
        )


@asynccontextmanager
async def ssh_pushed(folder: Path) -> AsyncIterator[Target]:
    """The same, where the list is pushed over the network, and sshd is asked by logging in."""
    lists, numbers, port = folder / "lists", itertools.count(), free_port()
    lists.mkdir()
    authority, krl = folder / "state/brokers/target.pub", lists / "revoked.krl"
    taker = page_script("ssh.md", "take-remit-list", folder)
    keygen("-q", "-t", "ed25519", "-N", "", "-f", folder / "push_key")
    public = (folder / "push_key.pub").read_text()
    keys, hosts = folder / "authorized_keys", folder / "known_hosts"
    keys.write_text(f'restrict,command="{taker} {krl}" {public}')
    # sshd lets nobody in without a list: the first one is laid by hand.
    load_broker("target", {"kind": "ssh", "krl": {"file": str(krl)}}, surroundings(folder))
    with sshd(folder / "sshd", authority, krl, port=port, keys=keys) as server:
        hosts.write_text("* " + server.known_hosts.read_text().partition(" ")[2])

        async def accepts(values: Mapping[str, str]) -> bool:
            own = folder / f"client-{next(numbers)}"
            done = await asyncio.to_thread(server.login, values, "true", folder=own)
            assert done.returncode == 0 or "Permission denied (publickey)" in done.stderr, done
            return done.returncode == 0

        def table(port: int, seconds: float = 5.0) -> dict[str, Any]:
            settings = ("BatchMode=yes", "IdentitiesOnly=yes", f"UserKnownHostsFile={hosts}")
            more = [word for each in settings for word in ("-o", each)]
            own = ["-i", str(folder / "push_key"), "-p", str(port), "-l", USER]
            push = ["ssh", "-F", "/dev/null", "-T", *more, *own, "127.0.0.1"]
            probe = {"host": "127.0.0.1", "port": port, "user": USER, "principal": ACCOUNT}
            return {
                "kind": "ssh",
                "krl": {"command": push, "seconds": seconds},
                "probe": {**probe, "known_hosts_file": "known_hosts", "seconds": seconds},
            }

        yield Target(
            grant={"principals": [ACCOUNT]},
            table=table,
            port=port,
            standing=_nothing,
            accepts=accepts,
            down=lambda: asyncio.to_thread(server.stop),
            up=lambda: asyncio.to_thread(server.start),
            hurried=lambda given: table(given["probe"]["port"], 1.0),
        )


@asynccontextmanager
async def x509(folder: Path) -> AsyncIterator[Target]:
    """A certificate for each lease, and a list that nginx reads when told; the broker asks it."""
    (folder / "lists").mkdir()
    port, numbers = free_port(), itertools.count()
    authority, crl = folder / "state/brokers/target.pem", folder / "lists/revoked.pem"
    plan = Nginx(folder / "nginx", port, authority, crl)

    def table(port: int) -> dict[str, Any]:
        url = f"https://127.0.0.1:{port}/"
        return {
            "kind": "x509",
            "crl": {"file": "lists/revoked.pem", "command": plan.command("-s", "reload")},
            "probe": {"url": url, "ca_file": "nginx/server.crt", "settle_seconds": 0.4},
        }

    # nginx does not start without the authority and a list: the first broker lays both.
    load_broker("target", table(port), surroundings(folder))
    with nginx(folder / "nginx", authority, crl, port=port) as server:
        ca = server.folder / "server.crt"

        async def accepts(values: Mapping[str, str]) -> bool:
            both = folder / f"client-{next(numbers)}.pem"
            both.touch(mode=0o600)
            both.write_text(values["bundle"])
            context = ssl.create_default_context(cafile=ca)
            context.load_cert_chain(both)
            async with (
                aiohttp.ClientSession(trust_env=False) as http,
                http.get(server.url, ssl=context) as answer,
            ):
                return answer.status == 200

        yield Target(
            grant={"organization": ["agents"]},
            table=table,
            port=port,
            standing=_nothing,
            accepts=accepts,
            down=lambda: asyncio.to_thread(server.stop),
            up=lambda: asyncio.to_thread(server.start),
            hurried=lambda given: {**given, "probe": {**given["probe"], "seconds": 0.3}},
            slow=True,
        )


def _move(place: Path, to: Path) -> None:
    place.rename(to)
