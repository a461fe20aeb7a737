"""A whole Remit, killed under load, starved of disk, and left without its upstream."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from authority import Place, draft

from remit.proof.checkpoint import Checkpoint
from remit.proof.merkle import Tree

pytestmark = pytest.mark.crash

WORKERS = 6
OUTCOMES = {
    "call.succeeded",
    "call.failed",
    "call.denied",
    "call.unknown",
    "call.unadmitted",
    "call.unidentified",
}


async def load(place: Place, svid: str, token: str, label: str) -> list[str]:
    """Call until the authority is gone; return the bodies that were answered with success."""
    told: list[str] = []

    async def worker(number: int, session: aiohttp.ClientSession) -> None:
        for turn in range(10_000):
            body = f"{label} {number} {turn}"
            try:
                answer = await draft(session, place, svid=svid, token=token, body=body)
            except (aiohttp.ClientError, OSError, ValueError, IndexError):
                return
            if answer.get("result", {}).get("isError") is False:
                told.append(body)

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)) as session:
        await asyncio.gather(*(worker(number, session) for number in range(WORKERS)))
    return told


@pytest.mark.parametrize(("seed", "budget"), [(1, 5000), (2, 60)])
async def test_killed_under_load_it_has_a_permit_for_all_that_acted_and_loses_nothing_it_told(
    tmp_path: Path, seed: int, budget: int
):
    place = Place(tmp_path, budget=budget)
    chance = random.Random(seed)
    told: list[str] = []
    published: list[Checkpoint] = []
    with place.helpdesk():
        token = task = ""
        for round_ in range(2):
            with place.up() as authority:
                if not token:
                    place.register()
                    task, token = place.open()
                published.append(await asyncio.to_thread(place.published))
                loading = asyncio.create_task(load(place, place.svid(), token, f"round {round_}"))
                await asyncio.sleep(chance.uniform(0.6, 1.6))
                published.append(await asyncio.to_thread(place.published))
                authority.kill()
                told += await loading
        with place.up():
            if budget < 1000:
                await _drained(place, token)
            await asyncio.sleep(1.2)
            tree = Tree(await asyncio.to_thread(place.leaf_hashes))
            chain = await _chain(place, task)
            shown = await asyncio.to_thread(place.control.get, "tasks", task)
    acted = [body for body in place.drafts() if body.startswith("round ")]
    assert told, "no call was answered: there was no load"
    assert set(told) <= set(acted)
    assert len(acted) == len(set(acted)), "a call acted twice"
    assert len(acted) <= shown["spent"]["calls"] <= budget

    assert all(checkpoint.size for checkpoint in published[1:]), "nothing was published under load"
    for checkpoint in published:
        assert checkpoint.size < tree.size
        assert tree.root(checkpoint.size) == checkpoint.root, "the log left what it published"

    calls: dict[str, list[str]] = {}
    for record in chain:
        if record["call"]:
            calls.setdefault(record["call"], []).append(record["kind"])
    permitted = await place.permitted(task)
    assert len(permitted) == len(set(permitted.values())), "a call was permitted twice"
    may_have_acted = {body: call for call, body in permitted.items()}
    assert set(acted) <= set(may_have_acted), "something acted without a permit of its own"
    for body in acted:
        ended = OUTCOMES & set(calls[may_have_acted[body]])
        assert ended == {"call.succeeded"} or (body not in told and ended == {"call.unknown"})
    for call, kinds in calls.items():
        assert sum(kind in OUTCOMES for kind in kinds) == 1, (call, kinds)
        if "call.succeeded" in kinds:
            assert kinds.index("call.decided") < kinds.index("call.succeeded")


async def _drained(place: Place, token: str) -> None:
    """Spend what the crashes left of the budget, and see it refused from then on."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)) as session:
        for turn in range(place.budget + 1):
            answer = await draft(
                session, place, svid=place.svid(), token=token, body=f"round 2 {turn}"
            )
            if answer["result"]["isError"]:
                assert "budget" in str(answer)
                return
    raise AssertionError("the budget was never spent")


async def _chain(place: Place, task: str) -> list[dict[str, Any]]:
    found = await asyncio.to_thread(place.control.get, "evidence", "tasks", task)
    records: list[dict[str, Any]] = found["records"]
    return records


async def test_with_its_disk_full_calls_are_refused_nothing_hangs_and_readiness_tells(
    tmp_path: Path,
):
    place = Place(tmp_path)
    told: list[str] = []
    refused: list[str] = []
    ready: list[int] = []
    with place.helpdesk(), place.up("bash", "-c", 'ulimit -f 600; exec "$@"', "bash"):
        place.register()
        task, token = place.open()
        svid = place.svid()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
            for turn in range(1500):
                body = f"{turn} " + "x" * 1900
                answer = await draft(session, place, svid=svid, token=token, body=body)
                if answer.get("result", {}).get("isError") is False:
                    told.append(body)
                else:
                    refused.append(str(answer))
                    assert "evidence" in refused[-1] or "log" in refused[-1], refused[-1]
                    ready.append((await asyncio.to_thread(place.get, "readyz"))[0])
                if 503 in ready:  # until then it healed: folding the log into the file made room
                    break
    assert refused, "the disk never filled up"
    assert 503 in ready
    assert all("x" * 100 not in answer for answer in refused)
    acted = {body for body in place.drafts() if body.endswith("xx")}
    assert set(told) <= acted
    with place.up():
        chain = await _chain(place, task)
    permits = sum(record["body"].get("effect") == "permit" for record in chain)
    assert len(acted) <= permits, "something acted whose permit was not durable"


async def test_a_dead_upstream_fails_clearly_and_readiness_tells(tmp_path: Path):
    place = Place(tmp_path)
    with place.up():
        place.register()
        _, token = place.open()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
            with place.helpdesk():
                await asyncio.to_thread(
                    place.control.post, "catalog", "scan", body={"upstream": "desk"}
                )
                answer = await draft(session, place, svid=place.svid(), token=token, body="one")
                assert answer["result"]["isError"] is False
            answer = await draft(session, place, svid=place.svid(), token=token, body="two")
        text = str(answer)
        assert "desk" in text
        assert answer.get("result", {}).get("isError") is not False
        status, ready = await asyncio.to_thread(place.get, "readyz")
        assert status == 503
        assert ready["parts"]["upstream desk"] != "ready"


async def test_with_its_log_unwritable_calls_are_refused_until_it_is_mended(tmp_path: Path):
    place = Place(tmp_path)
    limits = "[limits]\npublish_grace_seconds = 0.2\n"
    place.config.write_text(place.config.read_text() + limits)
    log, away = tmp_path / "s" / "log", tmp_path / "away"
    refused: dict[str, Any] = {}

    async def turn(body: str) -> bool:
        answer = await draft(session, place, svid=svid, token=token, body=body)
        if answer.get("result", {}).get("isError") is not False:
            refused[body] = answer
        return body in refused

    with place.helpdesk(), place.up():
        place.register()
        _, token = place.open()
        svid = place.svid()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)) as session:
            assert not await turn("before")
            log.rename(away)
            log.write_text("in the way")  # a mode would not stop root
            told = []
            for body in map(str, range(500)):
                if not await turn(body):
                    told.append(body)
                elif len(refused) == 3:
                    break
            assert refused, "it went on without a log"
            assert "cannot be published" in str(list(refused.values())[-1])
            status, ready = await asyncio.to_thread(place.get, "readyz")
            assert status == 503
            assert "cannot be published" in ready["parts"]["evidence"]
            log.unlink()
            away.rename(log)
            async with asyncio.timeout(10):
                while (await asyncio.to_thread(place.get, "readyz"))[0] != 200:  # noqa: ASYNC110 - asks another process
                    await asyncio.sleep(0.1)
            assert not await turn("after")
    assert set(place.drafts()) >= {"before", "after", *told}
    assert not set(refused) & set(place.drafts())
