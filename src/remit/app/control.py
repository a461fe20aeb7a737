"""The control API over a composed authority: what people and agents ask beside their calls."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from remit.api import (
    agents,
    approvals,
    catalog,
    delegations,
    evidence,
    health,
    keys,
    leases,
    oauth,
    processes,
    sealed,
    status,
    tasks,
)
from remit.api import log as log_files
from remit.api.callers import Callers
from remit.api.peers import owner_check, peer_of
from remit.api.refusals import Refusals
from remit.api.unrouted import app_of
from remit.app.brokers import issued_tokens
from remit.app.compose import House, utc_now
from remit.app.explaining import explain
from remit.app.leaks import Prompts
from remit.app.packing import export
from remit.closing import why_unsealed
from remit.gateway.scan import scan
from remit.model.errors import ConflictError
from remit.model.record import Context, Step
from remit.model.subject import Person


def control_app(house: House) -> ASGIApp:
    """Return the control API over a composed authority."""
    authority, loaded = house.authority, house.loaded

    def owner(request: Request) -> Person | None:
        if "remit.peer" not in (request.scope.get("extensions") or {}):
            return None
        return owner_check(peer_of(request.scope), os.getuid(), house.processes)

    callers = Callers(
        identity=authority.identity, owner=owner, audience=loaded.config.authority.audience
    )

    def agents_changed() -> None:
        house.workload_api.changed()
        house.redeciding.changed()

    async def look(upstream: str) -> Any:
        if upstream in house.egress.services:
            await house.egress.catalogue()
            return authority.catalogue.list(upstream)
        return await scan(house.gateway, upstream)

    async def pack(task: str) -> bytes:
        if (waits := why_unsealed(task, authority)) is not None:
            raise ConflictError(f"{waits}: export it once it is")
        return await export(house, task)

    async def why(decision: str) -> dict[str, Any]:
        return await explain(house, decision)

    prompts = Prompts(house.egress.guard, authority)
    checks = {
        "evidence": authority.evidence.health,
        "storage": house.journal.health,
        "clock": utc_now.health,
        "policy": house.reloader.health,
        "keys": house.own_keys.health,
        **{f"upstream {name}": _upstream_check(house, name) for name in house.gateway.upstreams},
    }
    seen = {
        "brokers": lambda: authority.leases.contacts.among(authority.leases.brokers),
        "services": house.egress.seen,
    }
    return app_of(
        [
            *health.routes(checks, house.metrics.registry, seen, owner),
            *status.routes(lambda: standing(house), house.trust_domain.bundle, callers),
            *leases.routes(authority, house.lease_pages, callers),
            *oauth.routes(
                issued_tokens(house.trust_domain, loaded.url, authority.leases), authority, callers
            ),
            *agents.routes(authority.registry, callers, agents_changed),
            *delegations.routes(authority, callers, prompts),
            *tasks.routes(authority, callers, prompts),
            *approvals.routes(authority.approvals, callers),
            *catalog.routes(authority.catalogue, look, callers),
            *evidence.routes(authority.evidence, pack, why, authority.tasks.is_open, callers),
            *keys.routes(
                lambda compromised, by: rotate(house, by, compromised=compromised), callers
            ),
            *sealed.routes(house.sealed, callers, utc_now),
            *processes.routes(house.processes, authority.registry, callers),
            *log_files.routes(loaded.state / "log"),
        ],
        Refusals(recorder=authority.evidence, count=house.metrics.refused),
    )


def standing(house: House) -> dict[str, Any]:
    """Return how the authority stands, for people."""
    authority = house.authority
    return {
        "url": house.loaded.url,
        "trust_domain": house.trust_domain.name,
        "state": str(house.loaded.state),
        "control_socket": str(house.loaded.control_socket),
        "workload_socket": str(house.loaded.workload_socket),
        "policy_bundle": authority.policy.bundle_digest,
        "templates": sorted(authority.tasks.templates),
        "agents": len(authority.registry.list()),
        "upstreams": {name: trouble or "ready" for name, trouble in house.gateway.health().items()},
        "services": {name: trouble or "ready" for name, trouble in house.egress.health().items()},
        "log": {
            "origin": f"{house.trust_domain.name}/log",
            "size": authority.evidence.publisher.size,
            "vkey": authority.evidence.signer.vkey,
        },
    }


def _upstream_check(house: House, name: str) -> Any:
    return lambda: house.gateway.health().get(name)


async def rotate(house: House, by: str, *, compromised: bool = False) -> int:
    """Rotate the trust domain's keys, leave a record, and return the bundle's new sequence.

    Raises:
        ConfigError: the new keys could not be written; the old ones stand.
        EvidenceError: they are in use, but the record could not be made durable.
    """
    await asyncio.to_thread(house.trust_domain.rotate, compromised=compromised)
    sequence = house.trust_domain.sequence
    house.authority.evidence.stage(
        Step(
            kind="authority.key_rotated",
            body={"by": by, "compromised": compromised, "spiffe_sequence": sequence},
        ),
        Context(),
    )
    await house.authority.evidence.barrier()
    return sequence
