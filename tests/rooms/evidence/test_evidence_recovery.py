"""After a crash: every call gets one outcome, and only what can be said honestly."""

import pytest
from evidence_house import House, leave


@pytest.mark.parametrize(
    ("steps", "outcome"),
    [
        ([("call.identified", {})], "call.failed"),
        ([("call.identified", {}), ("call.admitted", {})], "call.failed"),
        ([("call.decided", {"effect": "permit"})], "call.unknown"),
        ([("call.decided", {"effect": "deny"})], "call.denied"),
        ([("call.decided", {"effect": "approval_required"})], "call.denied"),
    ],
)
async def test_a_call_that_a_crash_cut_off_gets_its_outcome(
    house: House, steps: list[tuple[str, dict[str, str]]], outcome: str
):
    ledger = await house.open()
    last = [leave(ledger, kind, call="call_1", **body) for kind, body in steps][-1]
    await ledger.barrier()
    await house.close(ledger)
    ledger = await house.open()
    found = [record for _, record in await ledger.find("call_1")]
    assert [record.kind for record in found][len(steps) :] == [outcome]
    assert (found[-1].task, found[-1].parents) == ("task_1", (last,))
    await house.close(ledger)
    ledger = await house.open()
    assert len(await ledger.find("call_1")) == len(steps) + 1
    await house.close(ledger)


@pytest.mark.parametrize(
    "ending",
    [
        "call.succeeded",
        "call.failed",
        "call.denied",
        "call.unknown",
        "call.unidentified",
        "call.unadmitted",
    ],
)
async def test_a_call_that_ended_is_left_alone(house: House, ending: str):
    ledger = await house.open()
    leave(ledger, call="call_1", effect="permit")
    leave(ledger, ending, call="call_1")
    leave(ledger, "approval.approved", call="call_1")
    leave(ledger, "lease.settled", call="call_1", lease="lease_1")
    await house.close(ledger)
    ledger = await house.open()
    assert len(await ledger.records()) == 4
    await house.close(ledger)


async def test_each_of_many_open_calls_is_found(house: House):
    ledger = await house.open()
    for n in range(50):
        leave(ledger, call=f"call_{n}", effect="permit", decision=f"dec_{n}")
        if n % 2:
            leave(ledger, "call.succeeded", call=f"call_{n}")
    await house.close(ledger)
    ledger = await house.open()
    unknown = [r.call for _, r in await ledger.records() if r.kind == "call.unknown"]
    assert unknown == [f"call_{n}" for n in range(0, 50, 2)]
    await house.close(ledger)
