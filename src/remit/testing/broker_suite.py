"""What every broker has to hold, against a real target or a fake one.

Subclass :class:`BrokerSuite` in a test module, give it a fixture ``target`` that yields a
:class:`Target`, and pytest collects the cases (asyncio mode ``auto``). For plugin authors too.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from remit.credentials.port import Broker, Order, Revocation
from remit.model.call import CALL_TOOL, Call
from remit.model.errors import BrokerError, ConfigError
from remit.model.lease import Credential, Lease, LeaseScope, LeaseState

_numbers = itertools.count(1)


class Target(Protocol):
    """A target as the suite uses it.

    ``grant`` is one that ``uses`` needs no more than; ``installation`` is what its handles start
    with. ``names_are_ours``: :meth:`Broker.revoke` finds a credential by the lease's handle alone.
    """

    broker: Broker
    grant: Mapping[str, Any]
    installation: str
    names_are_ours: bool

    async def accepts(self, credential: Credential) -> bool:
        """Use the credential for real; False where the target refuses it."""
        ...

    async def down(self) -> None:
        """Make the target unreachable."""
        ...

    async def up(self) -> None:
        """Make it reachable again."""
        ...

    async def expire(self, credential: Credential) -> None:
        """Bring about the credential's expiry: by waiting, or by the target's clock."""
        ...


@dataclass(slots=True)
class Lab:
    """Orders and leases for one target."""

    target: Target
    seconds: int = 120
    made: list[Lease] = field(default_factory=list)

    def order(self, **changes: Any) -> Order:
        """Return an order for a fresh lease of one call."""
        number = next(_numbers)
        now = datetime.now(UTC)
        lease = Lease(
            id=f"lease_{number:026d}",
            task=f"task_{number:026d}",
            call=f"call_{number:026d}",
            broker="suite",
            target="suite",
            scope=LeaseScope.CALL,
            state=LeaseState.RESERVED,
            handle=f"{self.target.installation}-{secrets.token_hex(10)}",
            expires_at=now + timedelta(seconds=self.seconds),
            reserved_at=now,
            revocation=self.target.broker.traits.revocation,
        )
        self.made.append(lease)
        order = Order(
            lease=lease,
            workload="spiffe://remit.test/agent/suite",
            on_behalf_of="user:ada@corp.example",
            purpose="hold a broker to its word",
            grant=self.target.grant,
            call=Call(
                id=lease.call or "",
                action=CALL_TOOL,
                upstream="suite",
                name="use",
                arguments={},
                digest="0" * 64,
            ),
        )
        return replace(order, **changes)

    async def issue(self) -> tuple[Lease, Credential]:
        """Mint one; return its lease as the book would keep it, and the credential."""
        order = self.order()
        credential = await self.target.broker.issue(order)
        lease = order.lease.moved(
            LeaseState.ISSUED,
            memo=credential.memo,
            issued_at=datetime.now(UTC),
            expires_at=credential.expires_at or order.lease.expires_at,
        )
        return lease, credential

    async def revoke(self, lease: Lease, credential: Credential | None) -> Revocation:
        """Revoke as the book would."""
        keep = credential.keep if credential is not None else None
        return await self.target.broker.revoke(lease.moved(LeaseState.SETTLING), keep)

    async def alive(self) -> frozenset[str]:
        """Ask what is alive."""
        return (await self.target.broker.census(self.made)).alive

    @property
    def immediate(self) -> bool:
        """Whether the target takes back at once."""
        return self.target.broker.traits.revocation == "immediate"

    @property
    def lives_on(self) -> bool:
        """Whether the credential is a long-lived key, which no lease's end touches."""
        return self.target.broker.traits.revocation == "never"

    async def ended(self, lease: Lease, credential: Credential) -> None:
        """See that a credential is over: revoked now, or shown to end and then expired."""
        answer = await self.revoke(lease, credential)
        if self.lives_on:
            assert not answer.confirmed, "nothing ends at the target, so nothing is confirmed"
            assert answer.until is None, "no time is known at which the key ends"
            assert answer.detail, "people are told that the key lives on"
            return
        if not self.immediate:
            assert answer.until is not None, "`at_expiry` says until when"
            assert not answer.confirmed, "nothing is confirmed before the expiry"
            await self.target.expire(credential)
            answer = await self.revoke(lease, credential)
        assert answer.until is None
        assert answer.confirmed is self.target.broker.traits.confirms
        assert not await self.target.accepts(credential), "it is used again and refused"


class BrokerSuite:
    """The cases. Override ``target`` with a fixture."""

    async def test_a_minted_credential_is_accepted_and_after_its_end_refused(
        self, target: Target
    ) -> None:
        """Mint, use for real, settle, use again and be refused."""
        lab = Lab(target)
        lease, credential = await lab.issue()
        assert await target.accepts(credential)
        await lab.ended(lease, credential)

    async def test_revoking_twice_or_what_never_was_is_no_error(self, target: Target) -> None:
        """A sweep repeats, and a crash may come before the mint."""
        lab = Lab(target)
        if lab.immediate:
            lease, credential = await lab.issue()
            await lab.revoke(lease, credential)
            again = await lab.revoke(lease, credential)
            assert again.until is None
            assert again.confirmed is target.broker.traits.confirms
        await lab.revoke(lab.order().lease, None)

    async def test_one_revocation_leaves_the_others_alone(self, target: Target) -> None:
        """Leases of one target do not share their end."""
        lab = Lab(target)
        (lease, credential), (_, other) = await lab.issue(), await lab.issue()
        if lab.immediate:
            await lab.revoke(lease, credential)
            assert not await target.accepts(credential)
        assert await target.accepts(other)

    async def test_a_mint_whose_answer_was_lost_is_found_or_owned_up_to(
        self, target: Target
    ) -> None:
        """After a crash only the reserved row is left: no memo, nothing kept."""
        lab = Lab(target)
        order = lab.order()
        credential = await target.broker.issue(order)
        answer = await target.broker.revoke(order.lease.moved(LeaseState.SETTLING), None)
        if target.names_are_ours and lab.immediate:
            assert answer.until is None
            assert not await target.accepts(credential)
        elif lab.lives_on:
            assert not answer.confirmed
        else:
            assert answer.until is not None, "it says until when something may be alive"
            assert not answer.confirmed

    async def test_many_at_once_are_minted_and_gone(self, target: Target) -> None:
        """Twelve in parallel: nothing is mixed up, nothing is left."""
        lab = Lab(target)
        minted = await asyncio.gather(*(lab.issue() for _ in range(12)))
        distinct = {tuple(sorted(c.values.items())) for _, c in minted}
        assert len(distinct) == (1 if lab.lives_on else len(minted))
        if lab.immediate:
            await asyncio.gather(*(lab.revoke(lease, c) for lease, c in minted))
            assert not await lab.alive() & {lease.handle for lease, _ in minted}

    async def test_the_census_names_what_is_alive_and_nothing_else(self, target: Target) -> None:
        """Asked of the target, not of our book."""
        lab = Lab(target)
        lease, credential = await lab.issue()
        kept = lab.order().lease
        census = await target.broker.census([lease, kept])
        assert census.complete is target.broker.traits.lists
        assert lease.handle in census.alive | census.unasked
        assert kept.handle not in census.alive
        assert bool(census.standing) is lab.lives_on, "a long-lived key is named as standing"
        if target.broker.traits.lists:
            found = await target.broker.census([])
            assert lease.handle in found.alive, "it is found without the book"
        if lab.immediate:
            await lab.revoke(lease, credential)
            assert lease.handle not in (await target.broker.census([lease])).alive

    async def test_a_target_that_is_down_is_the_targets_fault_and_nothing_hangs(
        self, target: Target
    ) -> None:
        """Each method raises BrokerError; afterwards all is well again."""
        lab = Lab(target)
        lease, credential = await lab.issue()
        await target.down()
        try:
            async with asyncio.timeout(30):
                await self._fails(lab, lease, credential)
        finally:
            await target.up()
        await lab.ended(lease, credential)

    async def _fails(self, lab: Lab, lease: Lease, credential: Credential) -> None:
        said: list[str] = []
        broker = lab.target.broker
        if broker.traits.lists or broker.traits.confirms:
            try:
                await lab.revoke(lease, credential)
            except BrokerError as error:
                said.append(str(error))
            else:
                raise AssertionError("a revocation was confirmed by a target that is down")
        with contextlib.suppress(BrokerError):
            made = await broker.issue(lab.order())
            assert not lab.immediate, f"minted by a target that is down: {sorted(made.values)}"
        for text in said:
            assert text == text.strip()
            assert "\n" not in text
            for secret in credential.secrets:
                assert secret not in text

    async def test_a_cancelled_mint_leaves_nothing_that_a_revocation_does_not_end(
        self, target: Target
    ) -> None:
        """Cut short at a random point, then revoked by the reserved row."""
        lab = Lab(target)
        for delay in (0.0, 0.001, 0.004, 0.016, 0.064):
            order = lab.order()
            minting = asyncio.create_task(target.broker.issue(order))
            await asyncio.sleep(delay)
            minting.cancel()
            with contextlib.suppress(asyncio.CancelledError, BrokerError):
                await minting
            await target.broker.revoke(order.lease.moved(LeaseState.SETTLING), None)
            if lab.immediate and target.names_are_ours:
                assert order.lease.handle not in await lab.alive()

    async def test_secrets_are_named_and_shown_nowhere(self, target: Target) -> None:
        """What lets its holder in is in ``secrets``; nothing prints it."""
        lab = Lab(target)
        lease, credential = await lab.issue()
        assert credential.secrets
        assert all(len(secret) >= 8 for secret in credential.secrets)  # noqa: PLR2004 - guessable
        shown = repr(credential) + repr(lease) + str(lease.record()) + repr(target.broker)
        shown += repr((await lab.revoke(lease, credential)).detail)
        for secret in credential.secrets:
            assert secret not in shown
            assert secret in credential.values.values() or any(
                secret in value for value in credential.values.values()
            )

    async def test_a_grant_that_is_not_understood_is_refused_when_it_is_read(
        self, target: Target
    ) -> None:
        """An unknown key is an error, not a hope."""
        target.broker.check(target.grant)
        try:
            target.broker.check({**target.grant, "no-such-key": 1})
        except ConfigError as error:
            assert "no-such-key" in str(error)
        else:
            raise AssertionError("an unknown key was accepted")

    async def test_no_credential_is_asked_to_outlive_its_lease(self, target: Target) -> None:
        """The target's own expiry is the lease's, as near as the target can express it."""
        lab = Lab(target)
        order = lab.order()
        credential = await target.broker.issue(order)
        lease = order.lease.moved(LeaseState.ISSUED, memo=credential.memo)
        if credential.expires_at is not None:
            latest = order.lease.expires_at
            if lab.immediate:
                assert credential.expires_at <= latest + timedelta(hours=1)
            assert credential.expires_at > order.lease.reserved_at
        await lab.revoke(lease, credential)
