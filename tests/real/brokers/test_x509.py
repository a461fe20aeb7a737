"""The broker `x509` against a real nginx, and against a server that refuses in the handshake."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from certificate_house import INSTALLATION, surroundings
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from nginx import Nginx, nginx
from processes import free_port
from tls_server import tls_server

from remit.credentials.brokers.x509.broker import X509Broker
from remit.gateway.presenting import presenting
from remit.model.errors import NotMintedError
from remit.model.lease import Credential
from remit.testing.broker_suite import BrokerSuite, Lab

pytestmark = pytest.mark.real


async def get(url: str, server_ca: Path, values: Mapping[str, str]) -> int:
    """Ask with a client certificate, shown as the gateway shows it; return the status."""
    context = presenting(values["bundle"], server_ca)
    async with aiohttp.ClientSession() as http, http.get(url, ssl=context) as answer:
        await answer.read()
        return answer.status


class Service:
    """The suite's view of one nginx."""

    grant: Mapping[str, Any] = {"organization": ["agents"]}
    installation = INSTALLATION
    names_are_ours = True

    def __init__(self, folder: Path, server: Nginx, broker: X509Broker) -> None:
        self.folder = folder
        self.server = server
        self.broker = broker

    async def accepts(self, credential: Credential) -> bool:
        ca = self.server.folder / "server.crt"
        status = await get(self.server.url, ca, credential.values)
        assert status in {200, 400}
        return status == 200

    async def down(self) -> None:
        await asyncio.to_thread(self.server.stop)

    async def up(self) -> None:
        await asyncio.to_thread(self.server.start)

    async def expire(self, credential: Credential) -> None:
        while await self.accepts(credential):  # noqa: ASYNC110 - the server's clock alone ends it
            await asyncio.sleep(0.2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "lists").mkdir()
    return tmp_path


@pytest.fixture
def target(folder: Path) -> Iterator[Service]:
    port = free_port()
    authority, crl = folder / "state/brokers/mesh.pem", folder / "lists/revoked.pem"
    server = Nginx(folder / "nginx", port, authority, crl)
    options = {
        "crl": {"file": "lists/revoked.pem", "command": server.command("-s", "reload")},
        "probe": {"url": server.url, "ca_file": "nginx/server.crt"},
    }
    broker = X509Broker("mesh", options, surroundings(folder))
    with nginx(folder / "nginx", authority, crl, port=port) as running:
        yield Service(folder, running, broker)


class TestListedAndAsked(BrokerSuite):
    """With a list that nginx reads again when it is told to, and a probe that asks it."""

    @pytest.fixture
    def target(self, target: Service) -> Service:
        return target


class TestExpiring(BrokerSuite):
    """Without a list it runs out, and says so."""

    @pytest.fixture
    def target(self, folder: Path) -> Iterator[Service]:
        broker = X509Broker("mesh", {"max_seconds": 4}, surroundings(folder))
        with nginx(folder / "nginx", folder / "state/brokers/mesh.pem", None) as server:
            yield Service(folder, server, broker)


async def test_nginx_reads_whose_it_is(target: Service):
    lease, held = await Lab(target).issue()
    both = target.folder / "client.pem"
    both.touch(mode=0o600)
    both.write_text(held.values["bundle"])
    context = ssl.create_default_context(cafile=target.server.folder / "server.crt")
    context.load_cert_chain(both)
    url = target.server.url
    async with aiohttp.ClientSession() as http, http.get(url, ssl=context) as answer:
        said = await answer.text()
    serial = target.broker.serial(lease.handle)
    assert said == f"CN={lease.handle},O=agents {serial:032X}"


async def test_it_is_good_for_a_client_and_names_agent_and_task_once(target: Service):
    lease, held = await Lab(target).issue()
    made = x509.load_pem_x509_certificate(held.values["certificate"].encode())
    named = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uri = f"spiffe://remit.test/agent/suite/task/{lease.task}"
    assert list(named) == [x509.UniformResourceIdentifier(uri)]
    assert held.values["uri"] == uri
    used = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(used) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert made.not_valid_after_utc == held.expires_at


async def test_openssl_verifies_it_for_a_client_and_for_no_server(target: Service):
    lease, held = await Lab(target).issue()
    leaf, authority = target.folder / "leaf.pem", target.folder / "state/brokers/mesh.pem"
    leaf.write_text(held.values["certificate"])

    def verify(*more: str | Path) -> int:
        command = ["openssl", "verify", "-x509_strict", "-CAfile", authority, *more, leaf]
        return subprocess.run(command, check=False, capture_output=True, timeout=20).returncode

    listed = ("-crl_check", "-CRLfile", target.folder / "lists/revoked.pem")
    assert verify("-purpose", "sslclient", *listed) == 0
    assert verify("-purpose", "sslserver") != 0
    await Lab(target).revoke(lease, held)
    assert verify("-purpose", "sslclient", *listed) != 0


async def test_a_service_that_reads_no_list_gets_no_certificate(folder: Path):
    port = free_port()
    options = {
        "crl": {"file": "lists/revoked.pem"},
        "probe": {
            "url": f"https://127.0.0.1:{port}/",
            "ca_file": "nginx/server.crt",
            "seconds": 1,
        },
    }
    broker = X509Broker("mesh", options, surroundings(folder))
    authority = folder / "state/brokers/mesh.pem"
    with (
        nginx(folder / "nginx", authority, None, port=port) as server,
        pytest.raises(NotMintedError, match="see that it reads the list"),
    ):
        await Lab(Service(folder, server, broker)).issue()


async def test_the_list_survives_a_restart(target: Service):
    made = Lab(target)
    (lease, held), (_, other) = await made.issue(), await made.issue()
    await made.revoke(lease, held)
    (target.folder / "lists/revoked.pem").unlink()
    options = {
        "crl": {"file": "lists/revoked.pem", "command": target.server.command("-s", "reload")}
    }
    again = X509Broker("mesh", options, surroundings(target.folder))
    found = x509.load_pem_x509_crl((target.folder / "lists/revoked.pem").read_bytes())
    serial = again.serial(lease.handle)
    assert found.get_revoked_certificate_by_serial_number(serial) is not None
    assert lease.handle not in (await again.census([])).alive
    assert not await target.accepts(held)
    assert await target.accepts(other)


async def test_a_refusal_in_the_handshake_counts_as_one(folder: Path):
    (folder / "tls").mkdir()
    options = {"crl": {"file": "lists/revoked.pem"}}
    authority, crl = folder / "state/brokers/mesh.pem", folder / "lists/revoked.pem"
    X509Broker("mesh", options, surroundings(folder))
    with tls_server(folder / "tls", authority, crl) as url:
        probe = {"url": url, "ca_file": "tls/server.crt", "settle_seconds": 0}
        asking = {**options, "probe": probe}
        broker = X509Broker("mesh", asking, surroundings(folder))
        made = Lab(Service(folder, None, broker))  # type: ignore[arg-type]
        lease, held = await made.issue()
        assert await get(url, folder / "tls/server.crt", held.values) == 200
        assert (await made.revoke(lease, held)).confirmed
        with pytest.raises(aiohttp.ClientError):
            await get(url, folder / "tls/server.crt", held.values)
