"""What the tests against a real kube-apiserver share: one server for all, kept apart by handles."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from kube_apiserver import Cluster, kube_apiserver
from kube_target import KubeTarget


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with kube_apiserver() as running:
        yield running


@pytest.fixture
async def target(cluster: Cluster, tmp_path: Path) -> AsyncIterator[KubeTarget]:
    async with aiohttp.ClientSession(trust_env=False) as http:
        made = KubeTarget(cluster, http, tmp_path)
        yield made
        await made.broker.close()
    cluster.clear()
