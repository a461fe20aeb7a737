"""Zero standing privilege as a check, not a claim: every target is asked what is alive.

A credential is in order where its lease is open and its task runs. Everything else that a target
names, or cannot be asked about, is a finding; so is a target that does not answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from remit.credentials.port import Broker, Census, Finding, LeaseStore, Surveyor, Traits
from remit.model.errors import RemitError
from remit.model.lease import Lease, LeaseState

ASK_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One target's answer. ``trouble`` says why there is none."""

    broker: str
    revocation: str
    complete: bool
    alive: int
    trouble: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A credential that lives, or may live, without a live task; ``until`` where that is known."""

    broker: str
    handle: str
    why: str
    lease: str | None = None
    task: str | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What every target said. ``none_stands`` only where each answered and nothing was found."""

    asked: tuple[Asked, ...]
    findings: tuple[Standing, ...]

    @property
    def none_stands(self) -> bool:
        """Whether it is shown that no credential lives without a live task."""
        return not self.findings and all(each.trouble is None for each in self.asked)


async def verify_none(
    brokers: Mapping[str, Broker],
    store: LeaseStore,
    running: Callable[[str], bool],
    now: datetime,
    *,
    ask_seconds: float = ASK_SECONDS,
) -> Report:
    """Ask every target, and compare with the book.

    Args:
        brokers: by name.
        store: the book; leases that are settled but could live by their expiry are asked about too.
        running: says whether a task is open.
        now: aware UTC.
        ask_seconds: how long each target may take.
    """
    known = {lease.id: lease for lease in await store.unexpired(now)}
    known |= {lease.id: lease for lease in await store.unsettled()}
    by_broker: dict[str, list[Lease]] = {name: [] for name in brokers}
    lost = []
    for lease in known.values():
        if lease.broker in by_broker:
            by_broker[lease.broker].append(lease)
        elif lease.state is not LeaseState.SETTLED and lease.state is not LeaseState.FAILED:
            lost.append(_standing(lease, "its broker is not configured any more"))
    answers = await asyncio.gather(
        *(_ask(name, broker, by_broker[name], ask_seconds) for name, broker in brokers.items())
    )
    asked = tuple(answer for answer, _ in answers)
    findings = [
        finding
        for answer, census in answers
        for finding in _compare(answer, census, by_broker[answer.broker], running)
    ]
    return Report(asked=asked, findings=(*lost, *findings))


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Whether a broker can use its target; ``findings`` are what widens every lease there."""

    broker: str
    trouble: str | None
    findings: tuple[Finding, ...]


async def survey(
    brokers: Mapping[str, Broker], *, ask_seconds: float = ASK_SECONDS
) -> tuple[Target, ...]:
    """Ask each target, with its broker's own account, whether it answers and what widens leases."""

    async def ask(name: str, broker: Broker) -> Target:
        asked, _ = await _ask(name, broker, (), ask_seconds)
        if asked.trouble is not None or not isinstance(broker, Surveyor):
            return Target(broker=name, trouble=asked.trouble, findings=())
        try:
            async with asyncio.timeout(ask_seconds):
                found = tuple(await broker.survey())
        except (RemitError, TimeoutError) as error:
            said = str(error) or f"it did not answer within {ask_seconds:g} seconds"
            return Target(broker=name, trouble=said, findings=())
        return Target(broker=name, trouble=None, findings=found)

    return tuple(await asyncio.gather(*(ask(name, each) for name, each in brokers.items())))


async def _ask(
    name: str, broker: Broker, leases: Sequence[Lease], seconds: float
) -> tuple[Asked, Census | None]:
    traits: Traits = broker.traits
    try:
        async with asyncio.timeout(seconds):
            census = await broker.census(leases)
    except RemitError as error:
        trouble = str(error)
    except TimeoutError:
        trouble = f"it did not answer within {seconds:g} seconds"
    except Exception as error:  # noqa: BLE001 - one broken broker must not hide the others
        trouble = f"the broker broke: {type(error).__name__}"
    else:
        return (
            Asked(
                broker=name,
                revocation=traits.revocation,
                complete=census.complete,
                alive=len(census.alive),
            ),
            census,
        )
    return (
        Asked(broker=name, revocation=traits.revocation, complete=False, alive=0, trouble=trouble),
        None,
    )


def _compare(
    asked: Asked, census: Census | None, leases: Sequence[Lease], running: Callable[[str], bool]
) -> list[Standing]:
    by_handle = {lease.handle: lease for lease in leases}
    if census is None:
        return [
            _standing(lease, "its target did not answer") for lease in leases if not _over(lease)
        ]
    found = []
    for handle in sorted(census.alive | census.unasked):
        lease = by_handle.get(handle)
        why = _why(lease, running, alive=handle in census.alive)
        if why is None:
            continue
        found.append(
            Standing(broker=asked.broker, handle=handle, why=why)
            if lease is None
            else _standing(lease, why)
        )
    if not census.complete:
        named = census.alive | census.unasked
        found += [
            _standing(lease, "its mint was never answered, and the target lists none: it may live")
            for lease in leases
            if lease.state is LeaseState.UNKNOWN and lease.handle not in named
        ]
    found += [
        Standing(broker=asked.broker, handle=name, why=why)
        for name, why in sorted(census.standing.items())
    ]
    return found


def _why(lease: Lease | None, running: Callable[[str], bool], *, alive: bool) -> str | None:
    if lease is None:
        return "the target accepts it, and no lease is written down for it"
    sure = "the target accepts it" if alive else "the target cannot be asked"
    if lease.state in {LeaseState.RESERVED, LeaseState.ISSUED} and running(lease.task):
        return None
    if _over(lease):
        return None if not alive else f"{sure}, and its lease is {lease.state.value}"
    if lease.state is LeaseState.SETTLING and lease.revocation == "at_expiry":
        return f"{sure}, and it runs out by itself: this target can only expire"
    if not running(lease.task):
        return f"{sure}, its task has ended, and its lease is {lease.state.value}"
    return f"{sure}, and its lease is {lease.state.value}"


def _over(lease: Lease) -> bool:
    return lease.state in {LeaseState.SETTLED, LeaseState.FAILED}


def _standing(lease: Lease, why: str) -> Standing:
    return Standing(
        broker=lease.broker,
        handle=lease.handle,
        why=why,
        lease=lease.id,
        task=lease.task,
        until=lease.expires_at,
    )
