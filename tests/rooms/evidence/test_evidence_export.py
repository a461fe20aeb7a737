"""What a relying party gets: every record of one task, proven under one checkpoint."""

import pytest
from evidence_house import House, leave

from remit.evidence.export import gather
from remit.evidence.vault import salted_digest
from remit.model.errors import NotFoundError, ProofError
from remit.proof.checkpoint import open_checkpoint
from remit.proof.merkle import leaf_hash, verify_inclusion
from remit.proof.note import Verifier

BUNDLE = "sha256:" + "1" * 64


async def test_every_record_is_proven_under_the_checkpoint_by_public_means_alone(house: House):
    ledger = await house.open()
    leave(ledger, "task.opened", mandate="sha256:00", signed_mandate="a.b.c")
    for n in range(300):
        leave(ledger, "call.failed", task="task_2", call=f"call_{n}")
    ids = [leave(ledger, call="call_x", bundle=BUNDLE, effect="deny") for _ in range(2)]
    found = await gather(ledger, "task_1")
    await house.close(ledger)

    opened = open_checkpoint(found.checkpoint, [Verifier.parse(found.vkey)], origin=found.origin)
    root, size = opened.checkpoint.root, opened.checkpoint.size
    assert size == found.size == 303
    assert [item.index for item in found.records] == [0, 301, 302]
    assert [item.record.id for item in found.records[1:]] == ids
    for item in found.records:
        verify_inclusion(leaf_hash(item.data), item.index, size, item.proof, root)
    assert (list(found.mandates), list(found.bundles)) == (["a.b.c"], [BUNDLE])


async def test_payloads_are_disclosed_by_name_only_and_match_their_digests(house: House):
    ledger = await house.open()
    leave(ledger, "task.opened", payloads={"prompt": b"refund"})
    leave(ledger, payloads={"facts": b"{}"})
    assert list((await gather(ledger, "task_1")).disclosed) == []
    found = await gather(ledger, "task_1", disclose={"prompt"})
    (payload,) = found.disclosed
    assert (payload.name, payload.data) == ("prompt", b"refund")
    said = found.records[0].record.payloads["prompt"]["digest"]
    assert salted_digest(payload.salt, payload.data) == said
    await ledger.erase_task("task_1", "user:dpo@corp.example")
    found = await gather(ledger, "task_1", disclose={"prompt"})
    assert list(found.disclosed) == []
    assert list(found.withheld) == [(payload.record, "prompt")]
    await house.close(ledger)


async def test_a_task_that_the_log_does_not_know_is_not_found(house: House):
    ledger = await house.open()
    with pytest.raises(NotFoundError, match="task_9"):
        await gather(ledger, "task_9")
    await house.close(ledger)


async def test_a_record_that_was_altered_while_running_is_not_exported(house: House):
    ledger = await house.open()
    leave(ledger, "call.failed")
    await ledger.publisher.publish()
    house.journal.stage(
        lambda c: c.exec_driver_sql("UPDATE record SET data = x'7b7d' WHERE idx = 0")
    )
    with pytest.raises(ProofError, match="altered"):
        await gather(ledger, "task_1")
    await house.journal.close()
