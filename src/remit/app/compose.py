"""Puts the rooms together: a configuration in, an authority with its gateway and API out.

What is opened is closed in the reverse order, however far the opening came.
"""

from __future__ import annotations

import hashlib
import secrets
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp
import msgspec
import structlog

from remit.app.brokers import open_brokers
from remit.app.bundles import BundleArchive
from remit.app.clock import SteadyClock
from remit.app.config import Loaded
from remit.app.leaks import open_guard
from remit.app.metrics import Metrics
from remit.app.options import catalogued, gateway_options, issuers, services, upstreams
from remit.app.own_keys import OwnKeys
from remit.app.policy_folders import bundle_folders
from remit.app.redeciding import Redeciding
from remit.app.sealing import open_sealed_keys, show_ages
from remit.app.starting import accepted, put_right, started, stopped
from remit.approvals.desk import ApprovalDesk
from remit.approvals.ports import OpenPreview
from remit.closing import close_task
from remit.credentials.leases import Leases
from remit.credentials.port import LeaseStore, Surroundings
from remit.credentials.sealed_keys import SealedKeys
from remit.credentials.sealing import KEY_BYTES, KeySeal
from remit.evidence.keys import read_or_create
from remit.evidence.ledger import Ledger
from remit.gateway.egress.front import Egress
from remit.gateway.front import Gateway, mcp_app
from remit.identity.access_tokens import IssuerSigner
from remit.identity.desk import Identity
from remit.identity.dpop import Proofs
from remit.identity.federation import Federation, Peer
from remit.identity.oidc import Oidc
from remit.identity.registry import Registry
from remit.identity.trust_domain import TrustDomain
from remit.identity.validation import SvidValidator
from remit.identity.workload_api import book_file
from remit.identity.workload_api.attestation import Entry
from remit.identity.workload_api.ports import RegisteredEntries
from remit.identity.workload_api.processes import ProcessBook
from remit.identity.workload_api.server import WorkloadApi
from remit.model.record import Context
from remit.model.subject import SpiffeId
from remit.policy.bundle import Bundle
from remit.policy.catalogue import Catalogue
from remit.policy.check import check
from remit.policy.engine import Policy
from remit.policy.reloader import Reloader
from remit.spine import Authority, Limits
from remit.storage.sqlite.agents import SqliteAgents
from remit.storage.sqlite.approvals import SqliteApprovals
from remit.storage.sqlite.catalogue import SqliteCatalogue
from remit.storage.sqlite.evidence import SqliteEvidence
from remit.storage.sqlite.journal import Journal
from remit.storage.sqlite.leases import SqliteLeases
from remit.storage.sqlite.tasks import SqliteTasks
from remit.tasks.delegating import DelegationLimits
from remit.tasks.desk import TaskDesk
from remit.tasks.templates import parse_templates

log = structlog.get_logger()


utc_now = SteadyClock()
"""The authority's time, for every room; it never goes back while the process lives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """A composed authority: every part that something above has to reach."""

    loaded: Loaded
    authority: Authority
    trust_domain: TrustDomain
    federation: Federation
    journal: Journal
    gateway: Gateway
    egress: Egress
    workload_api: WorkloadApi
    processes: ProcessBook
    bundles: BundleArchive
    reloader: Reloader
    redeciding: Redeciding
    lease_pages: LeaseStore
    metrics: Metrics
    sealed: SealedKeys
    own_keys: OwnKeys
    stack: AsyncExitStack

    async def close(self) -> None:
        """Close every part, in the reverse order."""
        await self.stack.aclose()


async def compose(
    loaded: Loaded, *, accept_state: bool = False, forget_agents: bool = False
) -> House:
    """Open the state folder and put an authority together.

    Args:
        loaded: the configuration.
        accept_state: take working tables that were changed at rest as they stand, and record it.
        forget_agents: take no process that ran before for an agent's.

    Raises:
        ConfigError: the configuration, a key file or the bundle is wrong, or another process
            holds the state folder.
        EvidenceError: the log cannot be written, or contradicts what it published.
        ProofError: the database was altered behind the log's back.
    """
    async with AsyncExitStack() as stack:
        house = await _compose(loaded, stack, accept_state, forget_agents)
        stack.pop_all()
        return house
    raise AssertionError  # pragma: no cover - the block above returns or raises


async def _compose(
    loaded: Loaded,
    stack: AsyncExitStack,
    accept_state: bool,  # noqa: FBT001 - called above alone
    forget_agents: bool,  # noqa: FBT001 - as above
) -> House:
    kept = AsyncExitStack()
    stack.push_async_callback(kept.aclose)
    config, state, offered = loaded.config, loaded.state, services(loaded)
    journal = Journal.open(
        state / "remit.db",
        clock=utc_now,
        wait_seconds=config.limits.durable_seconds,
        accept_state=accept_state,
    )
    kept.push_async_callback(journal.close)
    trust_domain = TrustDomain.open(state / "keys", config.authority.trust_domain, clock=utc_now)
    own_keys = await OwnKeys.open(loaded)
    ledger = Ledger(
        SqliteEvidence(journal),
        folder=state,
        trust_domain=config.authority.trust_domain,
        clock=utc_now,
        publish_grace_seconds=config.limits.publish_grace_seconds,
        log_key=own_keys.log,
    )
    await ledger.start()
    kept.push_async_callback(ledger.close)
    session = await kept.enter_async_context(aiohttp.ClientSession(trust_env=False))

    registry = Registry(
        SqliteAgents(journal), ledger, trust_domain=config.authority.trust_domain, clock=utc_now
    )
    await registry.load()
    federation = Federation(
        trust_domain,
        [
            Peer(trust_domain=f.trust_domain, bundle=_bundle_at(f.bundle, loaded))
            for f in config.federates
        ],
        session=session,
        clock=utc_now,
    )
    svids = SvidValidator(federation, clock=utc_now)
    identity = Identity(
        registry,
        svids,
        oidc=Oidc(issuers(loaded), session, clock=utc_now),
        # A log that has records had an authority that may have taken proofs.
        proofs=Proofs(
            url=loaded.url, clock=utc_now, since=utc_now() if ledger.publisher.size else None
        ),
        recorder=ledger,
    )

    bundles = BundleArchive(state / "bundles")
    policy, reloader, tasks = _policy(
        loaded, bundles, ledger, journal, trust_domain, registry=registry
    )
    catalogue = Catalogue(
        SqliteCatalogue(journal), ledger, upstreams=catalogued(loaded), clock=utc_now
    )
    approvals = ApprovalDesk(
        store=SqliteApprovals(journal),
        recorder=ledger,
        clock=utc_now,
        open_preview=_previews(ledger),
        expires_seconds=config.approvals.expires_seconds,
        self_approval=config.approvals.self_approval,
    )
    sealed = open_sealed_keys(state, ledger, utc_now)
    brokers = open_brokers(
        loaded,
        _surroundings(loaded, session, trust_domain, ledger, sealed=sealed, own_keys=own_keys),
    )
    kept.push_async_callback(brokers.close)
    seal_key = read_or_create(state / "keys" / "leases.key", KEY_BYTES, secrets.token_bytes)
    pages = SqliteLeases(journal)
    leases = Leases(
        bindings=brokers.bindings,
        brokers=brokers.by_name,
        store=pages,
        recorder=ledger,
        clock=utc_now,
        seal=KeySeal(seal_key),
        installation=_installation(ledger),
        **msgspec.structs.asdict(config.leases),
    )
    for part in (catalogue, tasks, approvals, leases):
        await part.load()
    approvals.expire_ended(tasks.is_open)
    authority = Authority(
        identity=identity,
        registry=registry,
        tasks=tasks,
        approvals=approvals,
        policy=policy,
        catalogue=catalogue,
        leases=leases,
        evidence=ledger,
        clock=utc_now,
        limits=Limits(
            identify_seconds=config.limits.identify_seconds,
            decide_seconds=config.limits.decide_seconds,
            issue_seconds=config.limits.issue_seconds,
            settle_seconds=config.limits.settle_seconds,
        ),
    )
    for step in (
        *accepted(journal),
        started(loaded, ledger),
        policy.bundle.record(),
        *own_keys.loaded,
        *brokers.loaded,
    ):
        ledger.stage(step, Context())
    journal.accepted_is_recorded()
    await ledger.barrier()
    await put_right(authority)
    kept.push_async_callback(stopped, ledger)

    redeciding = Redeciding(authority)
    kept.push_async_callback(redeciding.close)
    policy.listen(redeciding.changed)

    metrics = _metrics(ledger, leases, sealed)
    gateway = mcp_app(
        authority,
        upstreams(loaded),
        gateway_options(loaded),
        perform=metrics.perform,
        close_task=close_task,
        guard=await open_guard(loaded, leases),
    )
    kept.push_async_callback(gateway.close)
    egress = Egress.beside(gateway.house, offered)
    kept.push_async_callback(egress.close)
    await egress.catalogue()
    if forget_agents:  # not before the state folder is ours: another's agents may run
        book_file.forget(state / book_file.FILE)
    processes = ProcessBook(ledger, file=state / book_file.FILE)
    workload_api = WorkloadApi(
        trust_domain,
        _entries(registry, loaded),
        processes,
        validate=svids.claims,
        clock=utc_now,
        federated=federation.bundles,
    )
    kept.callback(trust_domain.listen(workload_api.changed))
    kept.callback(federation.listen(workload_api.changed))
    kept.push_async_callback(workload_api.close)
    return House(
        loaded=loaded,
        authority=authority,
        trust_domain=trust_domain,
        federation=federation,
        journal=journal,
        gateway=gateway,
        egress=egress,
        workload_api=workload_api,
        processes=processes,
        bundles=bundles,
        reloader=reloader,
        redeciding=redeciding,
        lease_pages=pages,
        metrics=metrics,
        sealed=sealed,
        own_keys=own_keys,
        stack=kept,
    )


def _metrics(ledger: Ledger, leases: Leases, sealed: SealedKeys) -> Metrics:
    metrics = Metrics()
    metrics.gauge("log_size", "Records in the log.", lambda: ledger.publisher.size)
    metrics.gauge("open_leases", "Leases not yet settled.", lambda: len(leases.open_leases()))
    metrics.gauge("irrevocable_leases", "Leases whose target will not revoke.", leases.irrevocable)
    show_ages(metrics, sealed, utc_now)
    return metrics


def _surroundings(
    loaded: Loaded,
    session: aiohttp.ClientSession,
    trust_domain: TrustDomain,
    ledger: Ledger,
    *,
    sealed: SealedKeys,
    own_keys: OwnKeys,
) -> Surroundings:
    return Surroundings(
        http=session,
        clock=utc_now,
        signer=IssuerSigner(trust_domain, loaded.url),
        installation=_installation(ledger),
        state=loaded.state,
        path=loaded.path,
        sealed=sealed,
        open_key=own_keys.authority,
    )


def _installation(ledger: Ledger) -> str:
    """Return the prefix of our credentials' names at targets that others use as well."""
    return f"remit-{hashlib.sha256(ledger.signer.vkey.encode()).hexdigest()[:8]}"


def _policy(
    loaded: Loaded,
    bundles: BundleArchive,
    ledger: Ledger,
    journal: Journal,
    trust_domain: TrustDomain,
    *,
    registry: Registry,
) -> tuple[Policy, Reloader, TaskDesk]:
    folder, templates = bundle_folders(loaded)
    bundle = check(folder, templates=templates, check_templates=parse_templates).require()
    bundles.keep(bundle)
    policy = Policy(bundle, clock=utc_now)
    tasks = TaskDesk(
        store=SqliteTasks(journal),
        signer=trust_domain,
        recorder=ledger,
        clock=utc_now,
        templates=parse_templates(bundle.templates),
        require_proof=loaded.config.authority.proof_of_possession == "required",
        agents=registry,
        delegation=DelegationLimits(
            depth=loaded.config.delegation.depth, tasks=loaded.config.delegation.tasks
        ),
    )

    def swap(changed: Bundle) -> None:
        bundles.keep(changed)
        policy.replace(changed)
        tasks.replace_templates(parse_templates(changed.templates))

    reloader = Reloader(
        folder,
        active=bundle,
        swap=swap,
        recorder=ledger,
        templates=templates,
        check_templates=parse_templates,
    )
    return policy, reloader, tasks


def _entries(registry: Registry, loaded: Loaded) -> RegisteredEntries:
    """Return which processes are which agents by the configuration's selectors."""
    domain = loaded.config.authority.trust_domain
    return RegisteredEntries(
        registry,
        [
            Entry(SpiffeId(domain, f"/agent/{workload.agent}"), frozenset(workload.selectors))
            for workload in loaded.config.workloads
        ],
    )


def _bundle_at(text: str, loaded: Loaded) -> str:
    return text if text.startswith("https://") else str(loaded.path(text))


def _previews(ledger: Ledger) -> OpenPreview:
    """Return what opens the preview of an approval: the vault keeps it with the task's payloads."""

    async def opened(record: str) -> bytes | None:
        payload = await ledger.open_payload(record, "preview")
        return None if payload is None else payload.data

    return opened
