from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from remit.model.decision import Effect
from remit.model.errors import EvidenceError
from remit.policy.bundle import Bundle
from remit.policy.engine import Policy, Question
from remit.policy.loading import default_folder, read_folder
from remit.policy.reloader import Reloader
from remit.testing.evidence import MemoryRecorder

NO = '@id("no") @reason("no") @remedy("no") @control("x:1") forbid (principal, action, resource);'


class Stage:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recorder = MemoryRecorder()
        self.policy = Policy(Bundle.of(read_folder(folder)))
        self.reloader = Reloader(
            folder,
            active=self.policy.bundle,
            swap=self.policy.replace,
            recorder=self.recorder,
            poll_seconds=0.01,
        )


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    shutil.copytree(default_folder(), tmp_path / "policy")
    return Stage(tmp_path / "policy")


async def test_nothing_changed_is_nothing_done(stage: Stage):
    assert not await stage.reloader.poll()
    assert not await stage.reloader.poll()
    assert stage.recorder.kinds == []


async def test_a_changed_bundle_is_recorded_and_then_decides(
    stage: Stage, question: Callable[..., Question]
):
    (stage.folder / "99-no.cedar").write_text(NO)
    assert await stage.reloader.poll()
    assert stage.recorder.kinds == ["policy.loaded"]
    assert stage.recorder.durable == 1
    assert (await stage.policy.decide(question())).effect is Effect.DENY
    (stage.folder / "99-no.cedar").unlink()
    assert await stage.reloader.poll()
    assert (await stage.policy.decide(question())).effect is Effect.PERMIT


@pytest.mark.parametrize("bad", ["forbid (", NO.replace('@id("no")', ""), "\x00"])
async def test_a_bundle_that_fails_its_check_never_decides(
    stage: Stage, question: Callable[..., Question], bad: str
):
    before = stage.policy.bundle_digest
    (stage.folder / "99-no.cedar").write_text(bad)
    assert not await stage.reloader.poll()
    assert stage.policy.bundle_digest == before
    assert "99-no.cedar" in (stage.reloader.health() or "")
    assert (await stage.policy.decide(question())).effect is Effect.PERMIT
    assert not await stage.reloader.poll()
    assert stage.reloader.health() is not None
    (stage.folder / "99-no.cedar").unlink()
    await stage.reloader.poll()
    assert stage.reloader.health() is None


async def test_a_folder_that_is_gone_leaves_the_bundle_in_place(stage: Stage):
    before = stage.policy.bundle_digest
    moved = stage.folder.rename(stage.folder.with_name("moved"))
    assert not await stage.reloader.poll()
    assert stage.reloader.health() is not None
    assert stage.policy.bundle_digest == before
    moved.rename(stage.folder)
    await stage.reloader.poll()
    assert stage.reloader.health() is None


async def test_a_load_that_cannot_be_recorded_does_not_happen(stage: Stage):
    before = stage.policy.bundle_digest
    (stage.folder / "99-no.cedar").write_text(NO)
    stage.recorder.fail = True
    assert not await stage.reloader.poll()
    assert stage.policy.bundle_digest == before
    assert stage.reloader.health() is not None
    stage.recorder.fail = False
    assert await stage.reloader.poll()
    assert stage.reloader.health() is None


async def test_a_swap_that_fails_is_tried_again_and_recorded_once(stage: Stage):
    swap, stage.reloader._swap = stage.reloader._swap, _refuse
    (stage.folder / "99-no.cedar").write_text(NO)
    assert not await stage.reloader.poll()
    assert not await stage.reloader.poll()
    assert "cannot be kept" in (stage.reloader.health() or "")
    stage.reloader._swap = swap
    assert await stage.reloader.poll()
    assert stage.recorder.kinds == ["policy.loaded"]
    assert stage.reloader.health() is None


def _refuse(bundle: Bundle) -> None:
    raise EvidenceError("a policy bundle cannot be kept")


async def test_a_change_is_found_while_decisions_go_on(
    stage: Stage, question: Callable[..., Question]
):
    await stage.reloader.start()
    try:
        (stage.folder / "99-no.cedar").write_text(NO)
        seen = set()
        for _ in range(2000):
            decision = await stage.policy.decide(question())
            seen.add((decision.bundle_digest, decision.effect))
            if decision.effect is Effect.DENY:
                break
            await asyncio.sleep(0.005)
        assert len(seen) == 2
        assert len({digest for digest, _ in seen}) == 2
    finally:
        await stage.reloader.close()
        await stage.reloader.close()
