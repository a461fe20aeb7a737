"""The five questions: a whole chain leaves none open, and each gap is found."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from remit.evidence.chain import Question, audit, chain_digest
from remit.model.record import Json, Record
from remit.proof.encoding import encode_record

Steps = Sequence[tuple[str, str | None, dict[str, Json]]]

BUNDLE = "sha256:" + "0" * 64
WHOLE: Steps = (
    ("task.opened", None, {"mandate": BUNDLE}),
    ("call.identified", "call_1", {"workload": "spiffe://corp.example/a"}),
    ("call.admitted", "call_1", {"mandate": BUNDLE}),
    (
        "call.decided",
        "call_1",
        {
            "decision": "dec_1",
            "effect": "permit",
            "target": "crm/get",
            "bundle": BUNDLE,
            "policies": [{"id": "p"}],
        },
    ),
    ("lease.reserved", "call_1", {"lease": "lease_1", "confirmed": None}),
    ("lease.issued", "call_1", {"lease": "lease_1", "confirmed": None}),
    ("call.succeeded", "call_1", {"target": "crm/get"}),
    ("lease.settled", "call_1", {"lease": "lease_1", "confirmed": True}),
    ("task.completed", None, {}),
)


def chain(steps: Steps = WHOLE, *, sealed: bool = True) -> list[tuple[int, Record]]:
    at = datetime(2026, 11, 24, tzinfo=UTC)
    records = [
        Record(id=f"rec_{n}", kind=kind, at=at, body=body, task="task_1", call=call)
        for n, (kind, call, body) in enumerate(steps)
    ]
    if sealed:
        body = {
            "records": len(records),
            "chain": chain_digest([encode_record(record) for record in records]),
        }
        records.append(Record(id="rec_seal", kind="task.sealed", at=at, body=body, task="task_1"))
    return list(enumerate(records))


def asked(steps: Steps, **more: bool) -> set[Question]:
    return {finding.question for finding in audit("task_1", chain(steps, **more))}


def test_a_whole_chain_leaves_no_question_open():
    assert list(audit("task_1", chain())) == []


@pytest.mark.parametrize(
    ("missing", "question"),
    [
        ("task.opened", Question.INTENT),
        ("call.identified", Question.IDENTITY),
        ("call.decided", Question.INTENT),
        ("call.succeeded", Question.CLOSE),
        ("lease.settled", Question.CLOSE),
        ("task.completed", Question.CLOSE),
    ],
)
def test_each_record_that_is_missing_leaves_its_question_open(missing: str, question: Question):
    assert question in asked([step for step in WHOLE if step[0] != missing])


@pytest.mark.parametrize(
    ("kind", "field", "question"),
    [
        ("task.opened", "mandate", Question.INTENT),
        ("call.decided", "bundle", Question.INTENT),
        ("call.decided", "policies", Question.INTENT),
        ("call.decided", "target", Question.TARGET),
        ("lease.settled", "confirmed", Question.CLOSE),
    ],
)
def test_each_field_that_is_missing_leaves_its_question_open(
    kind: str, field: str, question: Question
):
    steps = [
        (k, call, {name: v for name, v in body.items() if (k, name) != (kind, field)})
        for k, call, body in WHOLE
    ]
    assert question in asked(steps)


@pytest.mark.parametrize(
    ("revocation", "said"),
    [
        ("immediate", "did not confirm"),
        ("at_expiry", "could only run out"),
        ("never", "lives on at its service"),
    ],
)
def test_an_end_that_nobody_confirmed_is_found_and_says_why(revocation: str, said: str):
    steps = [
        (k, call, {**body, "confirmed": False, "revocation": revocation})
        if k == "lease.settled"
        else (k, call, body)
        for k, call, body in WHOLE
    ]
    [finding] = audit("task_1", chain(steps))
    assert (finding.question, said in finding.sentence) == (Question.CLOSE, True)


def test_what_the_end_of_a_task_will_answer_only_waits_for_it():
    early = audit("task_1", chain(WHOLE[:-3], sealed=False))
    assert {finding.sentence.partition(" ")[0] for finding in early} == {"it", "lease", "no"}
    assert all(finding.waits for finding in early)
    twice = [*WHOLE[:7], WHOLE[6]]
    assert not all(finding.waits for finding in audit("task_1", chain(twice, sealed=False)))


def test_an_act_before_its_permit_is_found():
    steps = [*WHOLE[:3], WHOLE[6], WHOLE[3], *WHOLE[4:6], *WHOLE[7:]]
    assert Question.INTENT in asked(steps)


def test_a_lease_with_no_permit_is_found():
    steps = [*WHOLE[:3], *WHOLE[4:]]
    assert Question.CREDENTIAL in asked(steps)


def test_two_outcomes_are_found():
    steps = [*WHOLE[:7], ("call.failed", "call_1", {}), *WHOLE[7:]]
    assert Question.CLOSE in asked(steps)


def test_an_unknown_outcome_is_found():
    steps = [*WHOLE[:6], ("call.unknown", "call_1", {}), *WHOLE[7:]]
    assert Question.CLOSE in asked(steps)


def test_a_task_that_was_never_sealed_is_found():
    assert asked(WHOLE, sealed=False) == {Question.CLOSE}


def test_a_record_hidden_from_the_seal_is_found():
    records = chain()
    del records[2]
    assert Question.CHAIN in {finding.question for finding in audit("task_1", records)}


def test_a_record_after_the_seal_is_found():
    records = chain()
    index, last = records[-1]
    late = replace(last, id="rec_late", kind="lease.settled", body={"lease": "l"})
    found = audit("task_1", [*records, (index + 1, late)])
    assert any("after its seal" in finding.sentence for finding in found)


def test_a_parent_that_is_not_there_is_found():
    records = chain()
    index, record = records[1]
    records[1] = (index, replace(record, parents=("rec_gone",)))
    assert any("rec_gone" in finding.sentence for finding in audit("task_1", records))


def test_no_records_at_all_answer_nothing():
    assert {f.question for f in audit("task_1", [])} == {Question.INTENT, Question.CLOSE}
