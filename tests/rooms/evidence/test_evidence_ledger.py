"""The ledger: what was staged is found again, and what was altered is found out."""

import asyncio
import sqlite3
from pathlib import Path

import pytest
from evidence_house import House, leave

from remit.evidence.ledger import Ledger
from remit.model.errors import ConfigError, EvidenceError, InputError, NotFoundError, ProofError
from remit.model.record import Context, Payload, Step
from remit.testing.evidence import MemoryEvidence


def tamper(folder: Path, statement: str, *values: object) -> None:
    connection = sqlite3.connect(folder / "remit.db")
    with connection:
        connection.execute(statement, values)
    connection.close()


async def test_a_step_is_found_again_as_it_was_left(house: House):
    ledger = await house.open()
    first = leave(ledger, "task.opened", mandate="sha256:00")
    second = leave(ledger, call="call_1", parents=(first,), decision="dec_1", effect="deny")
    await ledger.barrier()
    chain = await ledger.chain("task_1")
    assert [(index, record.id, record.kind) for index, record in chain] == [
        (0, first, "task.opened"),
        (1, second, "call.decided"),
    ]
    assert chain[1][1].parents == (first,)
    assert [record.id for _, record in await ledger.find("dec_1")] == [second]
    assert [index for index, _ in await ledger.records(after=0)] == [1]
    assert list(await ledger.tasks()) == ["task_1"]
    await house.close(ledger)


async def test_a_payload_is_sealed_and_only_its_salted_digest_is_in_the_record(house: House):
    ledger = await house.open()
    record = leave(ledger, payloads={"prompt": b"refund customer 88"})
    again = leave(ledger, payloads={"prompt": b"refund customer 88"})
    await ledger.barrier()
    opened = await ledger.open_payload(record, "prompt")
    assert opened is not None
    assert opened.data == b"refund customer 88"
    assert len(opened.salt) == 16
    kept = {r.id: r.payloads for _, r in await ledger.chain("task_1")}
    assert kept[record]["prompt"] == {"digest": opened.digest, "bytes": 18}
    assert kept[again]["prompt"]["digest"] != opened.digest
    await house.close(ledger)
    for path in house.folder.rglob("*"):
        if path.is_file():
            assert b"refund" not in path.read_bytes(), path
            assert opened.salt not in path.read_bytes(), path


async def test_a_step_that_cannot_be_a_record_costs_nobody_else_anything(house: House):
    ledger = await house.open()
    leave(ledger, decision="dec_1")
    for bad in (
        {"amount": 1.5},
        {"much": "x" * 70_000},
        {"lone": "\ud800"},
        {"large": 2**60},
    ):
        with pytest.raises(InputError):
            leave(ledger, **bad)
    with pytest.raises(InputError):
        leave(ledger, task="a task\nwith lines")
    await ledger.barrier()
    assert len(await ledger.records()) == 1
    assert ledger.epoch == 0
    await house.close(ledger)


async def test_a_ledger_that_has_not_started_is_not_healthy(tmp_path: Path):
    ledger = Ledger(MemoryEvidence(), folder=tmp_path, trust_domain="corp.example")
    assert ledger.health() == "evidence has not started"
    await ledger.start()
    assert ledger.health() is None
    await ledger.close()


async def test_health_says_when_nothing_can_be_written(tmp_path: Path):
    store = MemoryEvidence()
    ledger = Ledger(store, folder=tmp_path, trust_domain="corp.example")
    await ledger.start()
    store.fail = True
    ledger.stage(Step(kind="call.failed", body={}), Context())
    with pytest.raises(EvidenceError):
        await ledger.barrier()
    assert ledger.health() is not None
    store.fail = False
    await ledger.close()


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("UPDATE record SET data = replace(data, 'deny', 'none') WHERE idx = 3", ()),
        ("UPDATE record SET data = ? WHERE idx = 3", (b"not json",)),
        ("UPDATE record SET task = 'task_2' WHERE idx = 3", ()),
        ("UPDATE record SET call = NULL WHERE idx = 3", ()),
        ("UPDATE record SET decision = 'dec_9' WHERE idx = 3", ()),
        ("DELETE FROM record WHERE idx = 3", ()),
        ("DELETE FROM record WHERE idx = 9", ()),
        ("DELETE FROM record", ()),
        ("UPDATE record SET idx = idx + 100 WHERE idx = 9", ()),
    ],
)
async def test_a_database_that_was_altered_does_not_start(
    house: House, statement: str, values: tuple[object, ...]
):
    ledger = await house.open()
    for n in range(10):
        leave(ledger, call=f"call_{n}", decision=f"dec_{n}", effect="deny")
        leave(ledger, "call.denied", call=f"call_{n}")
    await house.close(ledger)
    before = (house.folder / "log" / "checkpoint").read_bytes()
    tamper(house.folder, statement, *values)
    with pytest.raises(ProofError):
        await house.open()
    assert (house.folder / "log" / "checkpoint").read_bytes() == before


async def test_two_records_that_changed_places_do_not_start(house: House):
    ledger = await house.open()
    for n in range(10):
        leave(ledger, "call.failed", call=f"call_{n}")
    await house.close(ledger)
    tamper(house.folder, "UPDATE record SET idx = -1 WHERE idx = 3")
    tamper(house.folder, "UPDATE record SET idx = 3 WHERE idx = 4")
    tamper(house.folder, "UPDATE record SET idx = 4 WHERE idx = -1")
    with pytest.raises(ProofError, match="does not continue"):
        await house.open()


async def test_an_older_copy_of_the_database_does_not_start(house: House):
    ledger = await house.open()
    leave(ledger, "call.failed")
    await house.close(ledger)
    copy = (house.folder / "remit.db").read_bytes()
    ledger = await house.open()
    leave(ledger, "call.failed")
    await house.close(ledger)
    (house.folder / "remit.db").write_bytes(copy)
    with pytest.raises(ProofError, match="2 were published"):
        await house.open()


async def test_another_vault_key_does_not_start(house: House):
    ledger = await house.open()
    leave(ledger, "call.failed", payloads={"result": b"x"})
    await house.close(ledger)
    (house.folder / "keys" / "vault.key").write_bytes(bytes(32))
    with pytest.raises(ConfigError, match="restore"):
        await house.open()


async def test_another_log_key_does_not_start(house: House):
    ledger = await house.open()
    leave(ledger, "call.failed")
    await house.close(ledger)
    (house.folder / "keys" / "log.key").unlink()
    with pytest.raises(ProofError, match="not one of ours"):
        await house.open()


@pytest.mark.parametrize("name", ["log.key", "vault.key"])
async def test_a_key_that_others_may_read_is_refused(house: House, name: str):
    await house.close(await house.open())
    (house.folder / "keys" / name).chmod(0o640)
    with pytest.raises(ConfigError, match="others may read"):
        await house.open()


async def test_erasing_a_task_destroys_its_payloads_and_leaves_the_chain_whole(house: House):
    ledger = await house.open()
    mine = leave(ledger, "call.succeeded", payloads={"result": b"of customer 88"})
    other = leave(ledger, "call.succeeded", task="task_2", payloads={"result": b"of 89"})
    await ledger.barrier()
    before = await ledger.records()
    root = ledger.log.tree.root(await ledger.log.follow())
    assert await ledger.erase_task("task_1", "user:dpo@corp.example") == 1
    assert await ledger.open_payload(mine, "result") is None
    kept = await ledger.open_payload(other, "result")
    assert kept is not None
    assert kept.data == b"of 89"
    assert list(await ledger.records())[:2] == before
    assert ledger.log.tree.root(2) == root
    assert (await ledger.chain("task_1"))[-1][1].kind == "task.erased"
    await house.close(ledger)
    ledger = await house.open()
    assert await ledger.open_payload(mine, "result") is None
    later = leave(ledger, "call.failed", payloads={"result": b"later"})
    await ledger.barrier()
    assert (await ledger.open_payload(later, "result")).data == b"later"
    await house.close(ledger)


async def test_a_payload_that_was_altered_moved_or_replaced_is_found_out(house: House):
    ledger = await house.open()
    one = leave(ledger, payloads={"result": b"one"})
    two = leave(ledger, payloads={"result": b"two"})
    three = leave(ledger, payloads={"result": b"three"})
    await house.close(ledger)
    tamper(house.folder, "UPDATE payload SET sealed = ? WHERE record = 0", b"\x00" * 60)
    tamper(
        house.folder,
        "UPDATE payload SET sealed = (SELECT sealed FROM payload WHERE record = 2) WHERE record = 1",
    )
    ledger = await house.open()
    for record in (one, two):
        with pytest.raises(ProofError, match="altered"):
            await ledger.open_payload(record, "result")
    assert (await ledger.open_payload(three, "result")).data == b"three"
    with pytest.raises(NotFoundError):
        await ledger.open_payload(three, "prompt")
    await house.close(ledger)


async def test_a_seal_covers_exactly_what_came_before_it(house: House):
    ledger = await house.open()
    leave(ledger, "task.opened", mandate="sha256:00")
    leave(ledger, "call.failed", task="task_2")
    last = leave(ledger, "task.completed")
    await ledger.seal_task("task_1")
    await ledger.barrier()
    seal = (await ledger.chain("task_1"))[-1][1]
    assert (seal.kind, seal.body["records"], seal.parents) == ("task.sealed", 2, (last,))
    assert list(await ledger.audit("task_1")) == []
    await house.close(ledger)


async def test_a_record_that_races_a_seal_is_covered_or_comes_after_it(house: House):
    ledger = await house.open()
    leave(ledger, "task.opened", mandate="sha256:00")
    leave(ledger, "task.completed")

    async def race() -> None:
        for n in range(20):
            leave(ledger, "lease.settled", lease=f"lease_{n}")
            await asyncio.sleep(0)

    await asyncio.gather(ledger.seal_task("task_1"), race())
    await ledger.barrier()
    assert [f for f in await ledger.audit("task_1") if "seal does not cover" in f.sentence] == []
    await house.close(ledger)


async def test_a_lost_group_moves_the_epoch_and_leaves_the_log_without_a_gap(house: House):
    ledger = await house.open()
    leave(ledger, "call.failed")
    await ledger.barrier()
    leave(ledger, "call.failed", payloads={"result": b"lost"})
    house.journal.stage(lambda connection: connection.exec_driver_sql("nonsense"))
    with pytest.raises(EvidenceError):
        await ledger.barrier()
    assert ledger.epoch == 1
    kept = leave(ledger, "call.failed", payloads={"result": b"kept"})
    await ledger.barrier()
    assert [index for index, _ in await ledger.records()] == [0, 1]
    assert (await ledger.open_payload(kept, "result")).data == b"kept"
    await house.close(ledger)
    await house.close(await house.open())


async def test_payloads_have_to_have_names_that_a_record_can_hold(house: House):
    ledger = await house.open()
    with pytest.raises(InputError):
        ledger.stage(Step(kind="call.failed", body={}, payloads=(Payload("a b", b""),)), Context())
    await house.close(ledger)
