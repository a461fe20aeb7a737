"""The lease book cut short at every step of its life, and at 500 random ones of many at once.

A kill is played by cancelling every coroutine at one counted step and throwing away whatever no
barrier made durable; a mint that was on its way lands afterwards, as it does at a real target.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from lease_book import Book, CommittingRecorder, task_of

from remit.credentials.port import Order, Revocation
from remit.model.errors import RemitError
from remit.model.lease import Credential, Lease, LeaseScope
from remit.testing.credentials import MemoryTarget

POINTS = 500


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


class Fuse:
    """Counts steps, and blows at one of them for good."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.blown = False

    def step(self) -> None:
        self.left -= 1
        self.blown = self.blown or self.left <= 0
        if self.blown:
            raise Killed


class SlowTarget(MemoryTarget):
    """A target whose answers and effects are apart, so that a kill falls between them."""

    def __init__(self, fuse: Fuse) -> None:
        super().__init__()
        self.fuse = fuse
        self.on_its_way: list[str] = []

    async def issue(self, order: Order) -> Credential:
        self.fuse.step()
        self.on_its_way.append(order.lease.handle)
        self.fuse.step()
        self.on_its_way.remove(order.lease.handle)
        minted = await super().issue(order)
        await asyncio.sleep(0)
        self.fuse.step()
        return minted

    async def revoke(self, lease: Lease, keep: str | None) -> Revocation:
        self.fuse.step()
        answer = await super().revoke(lease, keep)
        await asyncio.sleep(0)
        self.fuse.step()
        return answer

    def land(self) -> None:
        """Let what was on its way arrive: the killed process cannot call it back."""
        self.live.update(self.on_its_way)
        self.on_its_way.clear()


def fused(book: Book, fuse: Fuse) -> None:
    """Let each barrier be a step before it is durable, and another after."""
    barrier = book.recorder.barrier

    async def stepping() -> None:
        fuse.step()
        await barrier()
        fuse.step()

    book.recorder.barrier = stepping  # type: ignore[method-assign] - a crash test reaches in


async def one_call(book: Book, number: int) -> None:
    task = task_of(number)
    lease = book.reserve(task)
    await book.recorder.barrier()
    await book.leases.issue(lease)
    await book.recorder.barrier()
    await asyncio.sleep(0)
    await book.leases.settle(lease)
    await book.recorder.barrier()


async def until_killed(work: Callable[[], Awaitable[object]]) -> bool:
    try:
        await work()
    except Killed:
        return True
    return False


async def after_a_restart_nothing_is_left(book: Book, target: SlowTarget) -> None:
    target.fuse = Fuse(10**9)
    book.restart()
    assert isinstance(book.recorder, CommittingRecorder)
    await book.leases.load()
    book.running.clear()
    await book.sweep()
    target.land()  # later than the first sweep: the worst case
    book.clock.move(31)
    assert await book.sweep() == 0
    assert target.live == set()
    await book.recorder.barrier()
    assert set(await book.states()) <= {"settled", "failed"}


async def test_a_kill_at_every_step_of_one_lease_leaves_nothing_alive():
    steps = 0
    while True:
        steps += 1
        fuse = Fuse(steps)
        target = SlowTarget(fuse)
        book = Book(target=target)
        fused(book, fuse)
        killed = await until_killed(lambda book=book: one_call(book, 1))
        await after_a_restart_nothing_is_left(book, target)
        if not killed:
            break
    assert steps > 10, "a kill fell between every two steps"


@pytest.mark.parametrize("scope", [LeaseScope.CALL, LeaseScope.TASK])
async def test_kills_at_random_points_of_many_leases_leave_nothing_alive(scope: LeaseScope):
    chance = random.Random(20261125)
    killed = 0
    for _ in range(POINTS // 2):
        fuse = Fuse(chance.randrange(1, 120))
        target = SlowTarget(fuse)
        book = Book(target=target, scope=scope)
        fused(book, fuse)

        async def many(book: Book = book) -> None:
            running = [asyncio.create_task(one_call(book, number % 4)) for number in range(12)]
            done = await asyncio.gather(*running, return_exceptions=True)
            for each in done:
                if isinstance(each, Killed):
                    raise each
                if each is not None and not isinstance(each, RemitError):
                    raise each

        with contextlib.suppress(Killed):
            await many()
        killed += fuse.blown
        await after_a_restart_nothing_is_left(book, target)
    assert killed > POINTS // 4


async def test_a_crash_while_a_crash_is_being_cleaned_up_is_cleaned_up_too():
    chance = random.Random(7)
    for _ in range(60):
        fuse = Fuse(chance.randrange(3, 12))
        target = SlowTarget(fuse)
        book = Book(target=target)
        fused(book, fuse)
        with contextlib.suppress(Killed):
            await one_call(book, 1)
        for _ in range(3):
            target.fuse = Fuse(chance.randrange(1, 4))
            book.restart()
            await book.leases.load()
            book.running.clear()
            with contextlib.suppress(Killed):
                await book.sweep()
        target.land()
        book.clock.now += timedelta(seconds=1)
        await after_a_restart_nothing_is_left(book, target)
