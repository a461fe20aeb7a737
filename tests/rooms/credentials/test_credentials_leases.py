from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from lease_book import START, Book, task_of

from remit.credentials.leases import Leases
from remit.credentials.port import Binding, Order, Revocation, Traits
from remit.credentials.putting_off import ATTEMPTS
from remit.credentials.sealing import KeySeal
from remit.model.contact import Contact
from remit.model.errors import (
    BrokerError,
    ConfigError,
    EvidenceError,
    InputError,
    NotFoundError,
    NotMintedError,
)
from remit.model.lease import Credential, FailedRevocation, Lease, LeaseScope, LeaseState
from remit.testing.credentials import MemoryTarget

if TYPE_CHECKING:
    from collections.abc import Mapping


async def test_the_row_is_written_before_the_mint_and_names_what_a_revoke_needs(book: Book):
    lease = book.reserve(task_of())
    await book.recorder.barrier()
    assert book.target.live == set()
    assert [(each.state, each.handle) for each in book.pages._all()] == [
        (LeaseState.RESERVED, lease.handle)
    ]
    await book.leases.issue(lease)
    assert book.target.live == {lease.handle}
    assert lease.handle.startswith("remit-00000000-")


@pytest.mark.parametrize("prepares", [False, True])
async def test_nothing_is_minted_before_the_row_is_durable(prepares: bool):
    book, durable = Book(target=PreparingTarget() if prepares else MemoryTarget()), asyncio.Event()

    async def barrier() -> None:
        await durable.wait()

    minting = asyncio.create_task(book.leases.issue(book.reserve(task_of()), durable=barrier))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(book.target.seen) == prepares
    assert book.target.live == set()
    durable.set()
    await minting
    assert len(book.target.live) == 1


@pytest.mark.parametrize("prepares", [False, True])
async def test_a_row_that_cannot_be_made_durable_is_over_at_once(prepares: bool):
    book = Book(target=PreparingTarget() if prepares else MemoryTarget())
    lease = book.reserve(task_of())

    async def barrier() -> None:
        raise EvidenceError("the disk is full")

    with pytest.raises(EvidenceError):
        await book.leases.issue(lease, durable=barrier)
    assert book.target.live == set()
    await book.leases.settle(lease)
    assert book.leases.open_leases() == ()


@pytest.mark.parametrize("prepares", [False, True])
async def test_a_lease_that_ends_while_it_becomes_durable_is_not_minted(prepares: bool):
    book, durable = Book(target=PreparingTarget() if prepares else MemoryTarget()), asyncio.Event()

    async def barrier() -> None:
        await durable.wait()

    lease = book.reserve(task_of())
    minting = asyncio.create_task(book.leases.issue(lease, durable=barrier))
    await asyncio.sleep(0)
    await book.leases.settle(lease)
    assert book.leases.open_leases() == (), "nothing is on its way to the target yet"
    durable.set()
    with pytest.raises(NotFoundError, match="ended before anything was minted"):
        await minting
    assert book.target.live == set()


@pytest.mark.parametrize("prepares", [False, True])
async def test_a_call_that_leaves_while_its_tasks_lease_becomes_durable_spoils_it_for_nobody(
    prepares: bool,
):
    target = PreparingTarget() if prepares else MemoryTarget()
    book = Book(target=target, scope=LeaseScope.TASK)

    async def barrier() -> None:
        await asyncio.Event().wait()

    lease = book.reserve(task_of())
    leaving = asyncio.create_task(book.leases.issue(lease, durable=barrier))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    again = book.reserve(task_of())
    assert again.id == lease.id
    await book.leases.issue(again)
    assert book.target.live == {lease.handle}


class PreparingTarget(MemoryTarget):
    """Goes as far as it can while the row is on its way to the disk."""

    @property
    def traits(self) -> Traits:
        return Traits(revocation="immediate", confirms=True, lists=True, prepares=True)

    async def issue(self, order: Order) -> Credential:
        self.seen.append(order)
        await order.durable()
        self.seen.pop()
        return await super().issue(order)


async def test_an_upstream_without_a_binding_needs_no_credential(book: Book):
    call = book.call()
    other = type(call)(
        id=call.id, action=call.action, upstream="other", name="x", arguments={}, digest=""
    )
    decision: Any = None
    assert book.leases.reserve(task_of(), other, decision) is None


@pytest.mark.parametrize(
    ("task_seconds", "template_seconds", "approval_seconds", "expected"),
    [(1800, 1800, None, 300), (120, 1800, None, 120), (1800, 90, None, 90), (1800, 1800, 60, 60)],
)
async def test_a_lease_lives_no_longer_than_the_least_of_what_bounds_it(
    book: Book,
    task_seconds: float,
    template_seconds: int,
    approval_seconds: float | None,
    expected: float,
):
    until = None if approval_seconds is None else START + timedelta(seconds=approval_seconds)
    task = task_of(seconds=task_seconds, template_seconds=template_seconds)
    lease = book.reserve(task, not_after=until)
    assert lease.expires_at == START + timedelta(seconds=expected)


async def test_a_credential_past_its_expiry_is_taken_back_by_the_sweep(book: Book):
    lease = book.reserve(task_of())
    await book.leases.issue(lease)
    book.clock.move(299)
    await book.sweep()
    assert book.target.live
    book.clock.move(2)
    await book.sweep()
    assert book.target.live == set()


async def test_a_lease_of_a_task_is_reused_counted_and_renewed_before_it_runs_out():
    book = Book(scope=LeaseScope.TASK)
    task = task_of()
    first = book.reserve(task)
    await book.leases.issue(first)
    again = book.reserve(task)
    assert again.id == first.id
    assert again.uses == 2
    assert book.recorder.kinds[-1] == "lease.used"
    assert book.reserve(task_of(2)).id != first.id, "two tasks share no credential"
    book.clock.move(290)
    renewed = book.reserve(task)
    assert renewed.id != first.id
    await book.leases.settle_task(task.id)
    assert first.handle not in book.target.live


async def test_arguments_of_the_call_narrow_the_grant():
    book = Book(grant={"rows": "{args.rows}", "note": "for {task.id} in {args.repo}"})
    await book.leases.issue(book.reserve(task_of(), book.call(rows=[1, 2], repo="core")))
    (order,) = book.target.seen
    assert order.grant == {"rows": [1, 2], "note": f"for {task_of().id} in core"}
    assert order.workload == "spiffe://remit.test/agent/helper"
    with pytest.raises(InputError, match="argument `rows` is needed"):
        book.reserve(task_of(), book.call(repo="core"))
    with pytest.raises(InputError, match="`repo` has to be text"):
        book.reserve(task_of(), book.call(rows=[1], repo=["core"]))


async def test_braces_in_an_argument_are_text_and_never_a_reference():
    book = Book(grant={"rows": "{args.rows}", "note": "in {args.repo}"})
    sly = "{task.on_behalf_of}{args.rows}"
    await book.leases.issue(book.reserve(task_of(), book.call(rows=sly, repo=sly)))
    assert book.target.seen[0].grant == {"rows": sly, "note": f"in {sly}"}


async def test_a_target_that_answered_no_leaves_nothing_to_wait_for(book: Book):
    book.target.refuse = True
    lease = book.reserve(task_of())
    with pytest.raises(NotMintedError):
        await book.leases.issue(lease)
    await book.leases.settle(lease)
    await book.recorder.barrier()
    assert await book.states() == ["failed"]
    assert book.leases.open_leases() == ()


async def test_a_mint_that_was_never_answered_is_revoked_again_when_it_must_have_landed(
    book: Book,
):
    book.target.fail_issue = True
    lease = book.reserve(task_of())
    with pytest.raises(BrokerError):
        await book.leases.issue(lease)
    await book.leases.settle(lease)
    (waiting,) = book.leases.open_leases()
    assert waiting.state is LeaseState.SETTLING
    book.target.live.add(lease.handle)  # the target took its time
    await book.sweep()
    assert book.target.live, "it is not hammered meanwhile"
    book.clock.move(31)
    await book.sweep()
    assert book.target.live == set()
    await book.recorder.barrier()
    assert await book.states() == ["failed"]


async def test_a_mint_that_answers_after_its_task_was_settled_is_taken_back_even_if_that_fails(
    book: Book, monkeypatch: pytest.MonkeyPatch
):
    minting, go = asyncio.Event(), asyncio.Event()
    issue = book.target.issue

    async def slowly(order: Order) -> Credential:
        minting.set()
        await go.wait()
        return await issue(order)

    monkeypatch.setattr(book.target, "issue", slowly)
    lease = book.reserve(task_of())
    running = asyncio.create_task(book.leases.issue(lease))
    await minting.wait()
    await book.leases.settle_task(lease.task)
    book.target.fail_revoke = True
    go.set()
    with pytest.raises(NotFoundError, match="settled while it was being issued"):
        await running
    assert book.target.live == {lease.handle}
    book.target.fail_revoke = False
    book.clock.move(5)
    assert await book.sweep() == 0
    assert book.target.live == set()
    await book.recorder.barrier()
    assert await book.states() == ["settled"]


async def test_nothing_is_issued_for_a_lease_that_is_being_settled(book: Book):
    lease = book.reserve(task_of())
    await book.leases.issue(lease)
    book.target.fail_revoke = True
    await book.leases.settle(lease)
    with pytest.raises(NotFoundError):
        await book.leases.issue(lease)


async def test_what_will_not_die_is_raised_asked_for_ever_after_and_shown(book: Book):
    lease = book.reserve(task_of())
    await book.leases.issue(lease)
    book.target.fail_revoke = True
    await book.leases.settle(lease)
    for _ in range(ATTEMPTS):
        book.clock.move(61)
        await book.sweep()
    (stuck,) = book.leases.open_leases()
    assert stuck.state is LeaseState.IRREVOCABLE
    assert book.leases.irrevocable() == 1
    assert book.recorder.kinds.count("lease.irrevocable") == 1
    book.target.fail_revoke = False
    book.clock.move(601)
    assert await book.sweep() == 0
    assert book.target.live == set()


async def test_a_target_s_last_answer_and_failure_are_known_from_use_alone(book: Book):
    def seen() -> Contact:
        return book.leases.contacts.among(["memory"])["memory"]

    assert seen() == Contact()
    lease = book.reserve(task_of())
    await book.leases.issue(lease)
    assert seen() == Contact(last_answered=START)
    book.clock.move(1)
    book.target.fail_revoke = True
    await book.leases.settle(lease)
    failed = Contact(
        last_answered=START,
        last_failed=START + timedelta(seconds=1),
        last_error="the target is down",
    )
    assert seen() == failed
    book.clock.move(10)
    book.target.fail_revoke = False
    await book.sweep()
    assert seen() == replace(failed, last_answered=START + timedelta(seconds=11))
    book.target.refuse = True
    with pytest.raises(NotMintedError):
        await book.leases.issue(book.reserve(task_of()))
    assert seen().last_error == "the target will not mint this"


async def test_the_last_revocation_that_failed_is_known_and_after_a_restart_as_well(book: Book):
    lease = book.reserve(task_of())
    await book.recorder.barrier()
    await book.leases.issue(lease)
    (fine,) = book.leases.open_leases()
    assert fine.revoke_failed is None
    book.target.fail_revoke = True
    await book.leases.settle(lease)
    book.clock.move(2)
    await book.sweep()
    (stuck,) = book.leases.open_leases()
    assert stuck.revoke_failed == FailedRevocation(
        at=START + timedelta(seconds=2),
        attempts=2,
        reason="the target is down",
        again_at=START + timedelta(seconds=4),
    )
    await book.recorder.barrier()
    assert await book.pages.get(lease.id) == stuck

    book.restart()
    await book.leases.load()
    (known,) = book.leases.open_leases()
    assert known.revoke_failed is not None
    assert (known.revoke_failed.attempts, known.revoke_failed.again_at) == (2, None)
    await book.sweep()
    (asked,) = book.leases.open_leases()
    assert asked.revoke_failed is not None
    assert asked.revoke_failed.attempts == 3, "every attempt counts, of whichever run"

    book.target.fail_revoke = False
    ended = await book.leases.revoke(lease.id, "user:olivia")
    assert ended.state is LeaseState.SETTLED
    assert ended.revoke_failed is not None
    assert (ended.revoke_failed.attempts, ended.revoke_failed.again_at) == (3, None)
    await book.recorder.barrier()
    assert await book.pages.get(lease.id) == ended


async def test_a_target_that_answers_again_is_not_called_failing(book: Book):
    target = _Expiring()
    book = Book(target=target)
    lease = book.reserve(task_of())
    await book.leases.issue(lease)
    book.leases.held_by(_never)
    await book.leases.settle(lease)
    (held,) = book.leases.open_leases()
    assert held.revoke_failed is not None
    assert held.revoke_failed.reason == "what uses it has not ended yet"
    book.leases._holders._holders.clear()
    book.clock.move(2)
    await book.sweep()
    (running_out,) = book.leases.open_leases()
    assert running_out.revoke_failed is None


async def _never(_: str) -> None:
    await asyncio.Event().wait()


async def test_a_person_can_have_what_will_not_die_asked_again_at_once(book: Book):
    lease = book.reserve(task_of())
    await book.leases.issue(lease)
    book.target.fail_revoke = True
    await book.leases.settle(lease)
    book.target.fail_revoke = False
    assert (await book.leases.revoke(lease.id, "user:olivia")).state is LeaseState.SETTLED
    step, context = next(r for r in book.recorder.records if r[0].kind == "lease.revoke_asked")
    assert step.body["by"] == "user:olivia"
    assert context.task == lease.task
    with pytest.raises(NotFoundError, match="remit lease list"):
        await book.leases.revoke(lease.id, "user:olivia")


async def test_a_log_that_is_down_does_not_keep_a_credential_alive(book: Book):
    lease = book.reserve(task_of())
    await book.recorder.barrier()
    await book.leases.issue(lease)
    book.recorder.fail = True
    with pytest.raises(EvidenceError):
        await book.leases.settle(lease)
    assert book.target.live == set()


class _Expiring(MemoryTarget):
    """A target that can only let credentials run out, at its own time."""

    @property
    def traits(self) -> Traits:
        return Traits(revocation="at_expiry", confirms=False, lists=False)

    async def issue(self, order: Order) -> Credential:
        minted = await super().issue(order)
        return Credential(
            values=minted.values,
            secrets=minted.secrets,
            keep="needed to revoke",
            memo="named by the target",
            expires_at=START + timedelta(hours=1),
        )

    async def revoke(self, lease: Lease, keep: str | None) -> Revocation:
        self.kept = keep
        return Revocation(
            confirmed=False, until=START + timedelta(hours=1), detail="it can only expire"
        )


async def test_where_a_target_can_only_expire_the_lease_says_so_until_it_has():
    target = _Expiring()
    book = Book(target=target)
    lease = book.reserve(task_of())
    await book.leases.issue(lease)
    await book.leases.settle(lease)
    (running_out,) = book.leases.open_leases()
    assert running_out.state is LeaseState.SETTLING
    assert running_out.revocation == "at_expiry"
    assert running_out.expires_at == START + timedelta(hours=1)
    asked = len([k for k in book.recorder.kinds if k == "lease.settling"])
    book.clock.move(600)
    await book.sweep()
    assert len([k for k in book.recorder.kinds if k == "lease.settling"]) == asked
    book.clock.move(3001)
    assert await book.sweep() == 0
    await book.recorder.barrier()
    (over,) = book.pages._all()
    assert (over.state, over.confirmed) == (LeaseState.SETTLED, False)


async def test_what_a_revoke_needs_and_nobody_may_read_survives_a_restart_sealed():
    target = _Expiring()
    book = Book(target=target)
    lease = book.reserve(task_of())
    await book.leases.issue(lease)
    await book.recorder.barrier()
    (row,) = book.pages._all()
    assert row.memo == "named by the target"
    assert row.sealed is not None
    assert b"needed" not in row.sealed
    assert "needed to revoke" not in str([step.body for step, _ in book.recorder.records])
    book.restart()
    await book.leases.load()
    await book.sweep()
    assert target.kept == "needed to revoke"


async def test_a_sealed_value_does_not_open_in_another_leases_row():
    seal = KeySeal(bytes(32))
    closed = seal.close("secret", "lease_1")
    assert seal.open(closed, "lease_1") == "secret"
    for wrong in (closed[:-1] + bytes([closed[-1] ^ 1]), b"", closed[:12]):
        with pytest.raises(ConfigError, match="does not open"):
            seal.open(wrong, "lease_1")
    with pytest.raises(ConfigError, match="does not open"):
        seal.open(closed, "lease_2")


async def test_a_start_revokes_what_the_last_run_left_whatever_its_state(book: Book):
    left = [book.reserve(task_of(number)) for number in range(3)]
    for lease in left[1:]:
        await book.leases.issue(lease)
    book.target.fail_revoke = True
    await book.leases.settle(left[2])
    await book.recorder.barrier()
    book.target.fail_revoke = False
    book.restart()
    await book.leases.load()
    await book.sweep()
    assert book.target.live == set()
    book.clock.move(31)
    assert await book.sweep() == 0
    await book.recorder.barrier()
    # The first was never minted, as far as anybody knows; the others were.
    assert sorted(await book.states()) == ["failed", "settled", "settled"]


async def test_a_broker_that_is_no_longer_configured_and_has_a_lease_stops_the_start(book: Book):
    await book.leases.issue(book.reserve(task_of()))
    await book.recorder.barrier()
    other = Leases(
        bindings={},
        store=book.pages,
        recorder=book.recorder,
        clock=book.clock,
        seal=KeySeal(bytes(32)),
    )
    with pytest.raises(ConfigError, match="configure it again"):
        await other.load()
    kept = Leases(
        bindings={},
        brokers={"memory": book.target},
        store=book.pages,
        recorder=book.recorder,
        clock=book.clock,
        seal=KeySeal(bytes(32)),
    )
    await kept.load()
    await kept.sweep(lambda _: True)
    assert book.target.live == set(), "an upstream may go while its broker stays"


@pytest.mark.parametrize(
    ("grant", "scope", "said"),
    [
        ({"a": "{args.repo}"}, LeaseScope.TASK, 'wants `scope = "call"`'),
        ({"a": ["{task.nothing}"]}, LeaseScope.CALL, "`{task.nothing}` is not known"),
    ],
)
def test_a_grants_references_are_looked_at_when_they_are_read(
    grant: Mapping[str, Any], scope: LeaseScope, said: str
):
    from remit.credentials.grants import check_grant  # noqa: PLC0415 - one test needs it

    with pytest.raises(ConfigError, match=said.replace("{", r"\{")):
        check_grant(grant, scope, "upstream `x`")


def test_a_part_of_a_task_gets_no_credential_of_a_template_that_its_parent_is_not_under():
    book = Book(grant={"role": "app_{task.template}"})
    root, part = task_of(1), task_of(2)
    wider = replace(part, mandate=replace(part.mandate, template="write"), above=(root,))
    with pytest.raises(InputError, match="`help` and `write`"):
        book.reserve(wider)
    assert book.leases.open_leases() == ()
    assert book.reserve(replace(part, above=(root,))).task == part.id


def test_a_binding_has_defaults_that_are_short():
    binding = Binding(name="b", broker=MemoryTarget())
    assert (binding.scope, binding.seconds) == (LeaseScope.CALL, 300)
