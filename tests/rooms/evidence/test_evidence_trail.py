"""A trail: one call's records in a row, and its refusal to vouch for what may be lost."""

import pytest

from remit.evidence.trail import Trail
from remit.model.errors import EvidenceError, MandateError, UpstreamError
from remit.testing.evidence import MemoryRecorder


async def test_each_record_follows_from_the_one_before():
    recorder = MemoryRecorder()
    trail = Trail(recorder, call="call_1", trace="00-aa-bb-01")
    refusal = MandateError("no")
    assert trail.leave(refusal) is refusal
    first = trail.last
    trail.bind("task_1")
    trail.leave(UpstreamError("no"))
    await trail.barrier()
    (_, one), (_, two) = recorder.records
    assert (one.task, one.call, one.parents, one.trace) == (None, "call_1", (), "00-aa-bb-01")
    assert (two.task, two.parents) == ("task_1", (first,))


async def test_a_barrier_that_fails_is_heard():
    trail = Trail(MemoryRecorder(fail=True), call="call_1")
    trail.leave(UpstreamError("no"))
    with pytest.raises(EvidenceError):
        await trail.barrier()


async def test_a_trail_refuses_for_good_once_a_group_was_lost():
    recorder = MemoryRecorder()
    trail = Trail(recorder, call="call_1")
    trail.leave(UpstreamError("no"))
    recorder.fail = True
    with pytest.raises(EvidenceError):
        await Trail(recorder, call="call_2").barrier()
    recorder.fail = False
    for _ in range(2):
        with pytest.raises(EvidenceError, match="writes were lost"):
            await trail.barrier()
    await Trail(recorder, call="call_3").barrier()
