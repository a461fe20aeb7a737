"""The Kubernetes broker at a real API server, as the conformance suite uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from kube_apiserver import NAMESPACE, Cluster

from remit.credentials.brokers.kubernetes.broker import KubernetesBroker
from remit.credentials.port import Census, Order, Revocation, Surroundings, Traits
from remit.model.lease import Credential, Lease

INSTALLATION = "remit-0a1b2c3d"


class KubeTarget:
    """One broker and its cluster."""

    installation = INSTALLATION
    names_are_ours = True
    grant: Mapping[str, Any] = {"service_account": "deployer"}

    def __init__(self, cluster: Cluster, http: aiohttp.ClientSession, folder: Path) -> None:
        self.cluster, self.http, self.folder = cluster, http, folder
        self.token = cluster.remits_token(folder)
        self.broker: Any = self.another()

    def another(self, **options: Any) -> KubernetesBroker:
        """Return a broker as another run of Remit would make it."""
        given = {**table(self.cluster, self.token), **options}
        surroundings = Surroundings(
            http=self.http,
            clock=lambda: datetime.now(UTC),
            signer=None,  # type: ignore[arg-type]
            installation=self.installation,
            state=self.folder,
            path=Path,
        )
        del given["kind"]
        chosen = {key: value for key, value in given.items() if value is not None}
        return KubernetesBroker("kube", chosen, surroundings)

    async def accepts(self, credential: Credential) -> bool:
        status = await asyncio.to_thread(self.cluster.uses, credential.values["token"])
        assert status in {200, 401}
        return status == 200

    async def down(self) -> None:
        self.cluster.stop()

    async def up(self) -> None:
        self.cluster.go_on()

    async def expire(self, credential: Credential) -> None:
        raise AssertionError("it takes back at once")


class AskedAgain:
    """A broker whose revocation is repeated when it says, as the book repeats it."""

    def __init__(self, broker: KubernetesBroker) -> None:
        self._broker = broker
        self.waited = 0

    @property
    def traits(self) -> Traits:
        return self._broker.traits

    def check(self, grant: Mapping[str, Any]) -> None:
        self._broker.check(grant)

    async def issue(self, order: Order) -> Credential:
        return await self._broker.issue(order)

    async def revoke(self, lease: Lease, keep: str | None) -> Revocation:
        answer = await self._broker.revoke(lease, keep)
        if answer.until is not None:
            self.waited += 1
            await past(answer.until)
            answer = await self._broker.revoke(lease, keep)
        return answer

    async def census(self, leases: Sequence[Lease]) -> Census:
        return await self._broker.census(leases)

    async def close(self) -> None:
        await self._broker.close()


async def past(until: datetime) -> None:
    """Wait as long as the broker itself said."""
    await asyncio.sleep(max(0.0, (until - datetime.now(UTC)).total_seconds()))


def table(cluster: Cluster, token: Path) -> dict[str, Any]:
    """Return the broker's table, as an operator writes it."""
    return {
        "kind": "kubernetes",
        "url": cluster.url,
        "namespace": NAMESPACE,
        "token_file": str(token),
        "ca_file": str(cluster.ca),
        "timeout_seconds": 5.0,
    }
