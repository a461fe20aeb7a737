"""Packs that lie, one way each, and the step that finds them."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import packs
import pytest
from joserfc.jwk import ECKey
from packs import LOG, STRANGER, WITNESS, Tale, Told, claims, jwk, lease, sign, tale

from remit.model.errors import InputError, ProofError
from remit.proof import note, story
from remit.proof.checkpoint import cosign, with_signatures
from remit.proof.encoding import decode_record, digest
from remit.proof.merkle import leaf_hash
from remit.proof.note import COSIGNATURE_V1, Signature, Signer
from remit.proof.pack import Pack, decode_pack
from remit.proof.verify import verify_pack

VKEY = LOG.verifier.vkey


def test_an_honest_pack_verifies_and_says_what_it_proves():
    told = tale()
    told.witnesses = (WITNESS,)
    told.disclose = frozenset({"prompt", "facts"})
    verdict = verify_pack(told.data(), [VKEY, WITNESS.verifier.vkey])
    assert [step.name for step in verdict.steps] == [
        "container",
        "records",
        "checkpoint",
        "inclusion",
        "chain",
        "mandate",
        "policy",
        "calls",
        "approvals",
        "leases",
        "payloads",
    ]
    assert verdict.sealed
    assert verdict.trusted_key
    assert verdict.witnesses == (WITNESS.name,)
    assert verdict.calls == {"succeeded": 2, "denied": 2}
    assert verdict.leases == {"settled": 1}
    assert (verdict.purpose, verdict.workload) == ("Refund order 1234", packs.WORKLOAD)
    assert verdict.mandate_key == jwk().thumbprint
    owed = " ".join(verdict.does_not_prove)
    assert "whose log" not in owed
    assert "one history" not in owed
    assert any(jwk().thumbprint in sentence for sentence in verdict.proves)


def test_what_a_pack_cannot_prove_is_said():
    told = tale(sealed=False)
    told.witnesses = (WITNESS,)
    told.steps[-1] = Told("call.unknown", {"code": "recovered"}, call="call_4")
    told.find("lease.settled").body["confirmed"] = False
    verdict = verify_pack(told.data(), open_task=True)
    owed = " ".join(verdict.does_not_prove)
    for words in (
        "whose log it is",
        "one history",
        "later records",
        "`lease_1` is gone",
        "1 calls",
    ):
        assert words in owed
    assert not verdict.trusted_key
    assert verdict.witnesses == ()


def test_a_witness_that_the_pack_names_is_not_one_that_we_trust():
    told = tale()
    told.witnesses = (WITNESS,)
    assert verify_pack(told.data(), [VKEY]).witnesses == ()
    assert verify_pack(told.data(), [VKEY, WITNESS.verifier.vkey]).witnesses == (WITNESS.name,)


def test_a_witness_that_was_asked_for_has_to_have_cosigned():
    told = tale()
    with pytest.raises(ProofError, match=r"^step 3, checkpoint: .*`witness.example/w1` did not"):
        verify_pack(told.data(), [VKEY], witnesses=[WITNESS.verifier.vkey])
    told.witnesses = (WITNESS,)
    verdict = verify_pack(told.data(), [VKEY], witnesses=[WITNESS.verifier.vkey])
    assert verdict.witnesses == (WITNESS.name,)
    (said,) = [sentence for sentence in verdict.proves if WITNESS.name in sentence]
    assert "2025-11-24T16:00:00Z" in said
    assert not any("one history" in sentence for sentence in verdict.does_not_prove)


def test_a_witness_of_the_same_name_and_another_key_is_another():
    told = tale()
    other = Signer(WITNESS.name, COSIGNATURE_V1, b"\x04" * 32)
    told.witnesses = (other,)
    with pytest.raises(ProofError, match="did not cosign"):
        verify_pack(told.data(), [VKEY], witnesses=[WITNESS.verifier.vkey])


def test_a_key_made_to_share_a_witness_s_id_does_not_sign_in_its_place(
    monkeypatch: pytest.MonkeyPatch,
):
    # An id has four bytes: whoever makes four billion keys has one with the id of any other.
    monkeypatch.setattr(note, "key_id", lambda name, kind, key: name.encode()[:4])
    forgers = (Signer(WITNESS.name, COSIGNATURE_V1, bytes([seed]) * 32) for seed in range(50))
    forger = next(each for each in forgers if each.verifier.vkey > WITNESS.verifier.vkey)
    told = tale()
    told.witnesses = (forger,)

    def claim_both(pack: Pack) -> Pack:
        again = cosign(pack.checkpoint, forger, time=1_764_000_001)
        keys = (WITNESS.verifier.vkey, forger.verifier.vkey)
        signed = with_signatures(pack.checkpoint, [again])
        return replace(pack, checkpoint=signed, witnesses=tuple(sorted(keys)))

    with pytest.raises(ProofError, match="share a name and an id"):
        verify_pack(told.data(claim_both), [LOG.verifier.vkey], witnesses=[WITNESS.verifier.vkey])


def test_a_witness_whose_clock_is_mad_breaks_nothing():
    told = tale()
    pack = told.pack()
    mad = with_signatures(pack.checkpoint, [cosign(pack.checkpoint, WITNESS, time=2**63 - 1)])
    data = told.data(_pack(checkpoint=mad, witnesses=(WITNESS.verifier.vkey,)))
    verdict = verify_pack(data, [VKEY], witnesses=[WITNESS.verifier.vkey])
    assert any(f"second {2**63 - 1}" in sentence for sentence in verdict.proves)


def test_a_witness_says_nothing_of_whose_log_it_is():
    told = tale()
    told.witnesses = (WITNESS,)
    verdict = verify_pack(told.data(), witnesses=[WITNESS.verifier.vkey])
    assert verdict.witnesses == (WITNESS.name,)
    assert not verdict.trusted_key
    assert any("whose log" in sentence for sentence in verdict.does_not_prove)


def test_a_key_that_cannot_cosign_is_no_witness():
    with pytest.raises(InputError, match="cosign"):
        verify_pack(tale().data(), [VKEY], witnesses=[VKEY])


def test_the_step_says_whose_cosignatures_were_checked_with_a_key_of_ours():
    told = tale()
    told.witnesses = (WITNESS,)
    step = verify_pack(told.data(), [VKEY]).steps[2].sentence
    assert "witness.example/w1 (by a key that came with the pack)" in step
    step = verify_pack(told.data(), [VKEY], witnesses=[WITNESS.verifier.vkey]).steps[2].sentence
    assert "witness.example/w1 (by the key you gave)" in step


def test_an_open_task_may_have_a_call_under_way_and_a_live_lease():
    told = tale(sealed=False)
    told.steps += packs.call("call_5", "permit", "succeeded", lease("reserved", None, lease="l2"))
    told.steps.pop()
    verdict = verify_pack(told.data(), [VKEY], open_task=True)
    assert "under way" in verdict.steps[7].sentence
    assert verdict.leases == {"settled": 1, "reserved": 1}


def test_a_pack_of_an_open_task_verifies_only_where_that_is_said():
    data = tale(sealed=False).data()
    with pytest.raises(ProofError, match=r"^step 5, chain: .*--open-task"):
        verify_pack(data, [VKEY])
    verdict = verify_pack(data, [VKEY], open_task=True)
    assert not verdict.sealed
    assert "later records may be missing" in verdict.steps[4].sentence
    assert any("later records" in sentence for sentence in verdict.does_not_prove)


@pytest.mark.parametrize("open_task", [False, True])
@pytest.mark.parametrize("end", ["task.completed", "task.cancelled", "task.expired"])
def test_a_finished_task_without_its_seal_verifies_never(end: str, open_task: bool):
    told = tale()
    told.steps[-2:] = [replace(told.steps[-2], kind=end)]
    with pytest.raises(ProofError, match=r"^step 5, chain: .*ended.*no seal"):
        verify_pack(told.data(), [VKEY], open_task=open_task)


def test_cutting_the_end_and_the_seal_off_makes_no_whole_pack():
    told = tale()
    with pytest.raises(ProofError, match="--open-task"):
        verify_pack(told.data(lambda pack: replace(pack, records=pack.records[:-2])), [VKEY])


def test_a_sealed_task_verifies_also_where_an_open_one_would_do():
    assert verify_pack(tale().data(), [VKEY], open_task=True).sealed


def test_what_is_done_to_a_closed_task_may_follow_its_seal_and_is_counted():
    told = tale()
    told.steps.append(Told("task.erased", {"by": "user:dpo@corp.example", "keys": 1}))
    assert "1 records that did" in " ".join(verify_pack(told.data()).does_not_prove)


def test_what_is_revoked_may_be_revoked_again():
    told = tale()
    settled = told.find("lease.settled")
    told.steps.insert(told.steps.index(settled), lease("irrevocable", confirmed=False))
    told.steps.append(replace(settled))
    assert verify_pack(told.data(), [VKEY]).leases == {"settled": 1}


def test_a_capability_that_ends_in_a_star_covers_what_begins_so():
    told = tale()
    for kind in ("call.decided", "call.succeeded"):
        told.find(kind).body.update(target="orders/1234")
    told.find("call.decided").body.update(action="read_resource")
    assert verify_pack(told.data(), [VKEY]).calls["succeeded"] == 2


def test_many_seals_cost_no_more_than_their_number():
    told = tale()
    told.steps += [Told("task.sealed") for _ in range(200)]
    pack = decode_pack(told.data())
    read: list[bytes] = []

    class Watched(list[bytes]):
        def __getitem__(self, key: Any) -> Any:
            found = super().__getitem__(key)
            read.extend(found if isinstance(key, slice) else [found])
            return found

        def __iter__(self) -> Iterator[bytes]:
            for each in super().__iter__():
                read.append(each)
                yield each

    hashes = Watched(leaf_hash(each.data) for each in pack.records)
    chain = [(each.index, decode_record(each.data)) for each in pack.records]
    assert "seal counts" in story.check_chain(pack.task, chain, hashes)
    assert len(read) == len(chain)


def test_a_seal_is_never_said_to_be_the_last_word():
    owed = verify_pack(tale().data(), [VKEY]).does_not_prove
    assert any("followed the seal" in sentence for sentence in owed)


def _without(kind: str, occurrence: int = 0) -> Callable[[Tale], None]:
    def change(told: Tale) -> None:
        told.steps.remove(told.find(kind, occurrence))

    return change


def _body(kind: str, occurrence: int = 0, **body: Any) -> Callable[[Tale], None]:
    def change(told: Tale) -> None:
        told.find(kind, occurrence).body.update(body)

    return change


def _twice(kind: str, occurrence: int = 0) -> Callable[[Tale], None]:
    def change(told: Tale) -> None:
        step = told.find(kind, occurrence)
        told.steps.insert(told.steps.index(step), replace(step))

    return change


def _early(kind: str, before: str, occurrence: int = 0) -> Callable[[Tale], None]:
    def change(told: Tale) -> None:
        step = told.find(kind, occurrence)
        told.steps.remove(step)
        told.steps.insert(told.steps.index(told.find(before, occurrence)), step)

    return change


def _insert(step: Told, before: str) -> Callable[[Tale], None]:
    return lambda told: told.steps.insert(told.steps.index(told.find(before)), step)


def _before_seal(*steps: Told) -> Callable[[Tale], None]:
    return lambda told: told.steps.__setitem__(slice(-1, -1), list(steps))


def _target(target: str, action: str = "call_tool") -> Callable[[Tale], None]:
    def change(told: Tale) -> None:
        told.find("call.decided").body.update(target=target, action=action)
        told.find("call.succeeded").body.update(target=target)

    return change


def _late(*steps: Told) -> Callable[[Tale], None]:
    return lambda told: told.steps.extend(steps)


def _mandate(**changes: Any) -> Callable[[Tale], None]:
    def change(told: Tale) -> None:
        told.mandate = sign(claims(**changes))

    return change


def _field(kind: str, **changes: Any) -> Callable[[Tale], None]:
    def change(told: Tale) -> None:
        step = told.find(kind)
        told.steps[told.steps.index(step)] = replace(step, **changes)

    return change


def _signed(**changes: Any) -> Callable[[Tale], None]:
    def change(told: Tale) -> None:
        told.mandate = sign(claims(), **changes)

    return change


def _malleable(told: Tale) -> None:
    """Give the key's last unused bits another value: the same point, spelt another way."""
    key = told.keys[0]
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = replace(key, x=key.x[:-1] + last[last.index(key.x[-1]) ^ 1])
    told.keys = (replace(other, kid=other.thumbprint),)
    told.mandate = sign(claims(), header={"kid": other.thumbprint})


def _named_otherwise(told: Tale) -> None:
    """Let the log name a key by something that says nothing of the key."""
    told.keys = (jwk(kid="m-1"),)
    told.mandate = sign(claims(), header={"kid": "m-1"})


DISHONEST_AUTHORITY = {
    "task_opened_missing": ("6, mandate", _without("task.opened")),
    "task_opened_twice": ("6, mandate", _twice("task.opened")),
    "task_opened_late": ("6, mandate", _early("call.identified", "task.opened")),
    "record_id_twice": ("5, chain", _field("call.decided", id="rec_000")),
    "parent_unknown": ("5, chain", _field("task.opened", parents=("rec_999",))),
    "parent_after": ("5, chain", _field("call.decided", parents=("rec_020",))),
    "parent_itself": ("5, chain", _field("call.decided", parents=("rec_003",))),
    "task_ended_twice": ("5, chain", _twice("task.completed")),
    "seal_before_end": ("5, chain", _early("task.sealed", "task.completed")),
    "seal_without_end": ("5, chain", _without("task.completed")),
    "seal_counts_too_few": ("5, chain", _body("task.sealed", records=3, chain=digest(b""))),
    "permit_after_seal": ("5, chain", _late(*packs.call("call_9", "permit", "succeeded"))),
    "lease_after_seal": ("5, chain", _late(lease("reserved", None, lease="lease_2"))),
    "lease_issued_after_seal": ("5, chain", _late(lease("issued", None, lease="lease_2"))),
    "approval_used_after_seal": ("5, chain", _late(Told("approval.used", {"approval": "apr_1"}))),
    "lease_reserved_after_end": ("5, chain", _before_seal(lease("reserved", None, lease="l2"))),
    "approval_used_after_end": (
        "5, chain",
        _before_seal(Told("approval.used", {"approval": "apr_1"})),
    ),
    "mandate_of_another_authority": ("6, mandate", _mandate(iss="spiffe://evil.example")),
    "mandate_without_capabilities": ("6, mandate", _mandate(capabilities=[])),
    "mandate_capability_of_no_target": (
        "6, mandate",
        _mandate(capabilities=[{"action": "call_tool"}]),
    ),
    "mandate_capability_a_number": ("6, mandate", _mandate(capabilities=[1])),
    "mandate_capabilities_a_number": ("6, mandate", _mandate(capabilities=7)),
    "mandate_capability_target_a_list": (
        "6, mandate",
        _mandate(capabilities=[{"action": "call_tool", "target": ["a"]}]),
    ),
    "mandate_budget_a_text": ("6, mandate", _mandate(budget={"calls": "many"})),
    "mandate_budget_is_true": ("6, mandate", _mandate(budget={"calls": True})),
    "mandate_of_another_task": ("6, mandate", _mandate(jti="task_2")),
    "mandate_of_another_workload": ("6, mandate", _mandate(sub="spiffe://corp.example/agent/x")),
    "mandate_for_another_person": ("6, mandate", _mandate(on_behalf_of="user:eve@corp.example")),
    "mandate_of_another_template": ("6, mandate", _mandate(template="refund_anything")),
    "mandate_without_end": ("6, mandate", _mandate(exp=None)),
    "mandate_end_is_true": ("6, mandate", _mandate(exp=True)),
    "mandate_expired_before_permit": (
        "8, calls",
        _mandate(exp=int(packs.OPENED_AT.timestamp())),
    ),
    "mandate_claims_twice": (
        "6, mandate",
        lambda told: setattr(told, "mandate", sign(b'{"jti":"task_1","jti":"task_1"}')),
    ),
    "mandate_claims_a_list": ("6, mandate", lambda told: setattr(told, "mandate", sign(b"[]"))),
    "mandate_of_another_type": ("6, mandate", _signed(header={"typ": "remit-task+jwt"})),
    "mandate_with_its_key_inside": ("6, mandate", _signed(header={"jwk": {"kty": "EC"}})),
    "mandate_by_an_unknown_key": ("6, mandate", _signed(header={"kid": "m-2"})),
    "mandate_key_named_otherwise": ("6, mandate", _named_otherwise),
    "mandate_signed_by_another": ("6, mandate", _signed(key=ECKey.generate_key("P-256"))),
    "key_spelt_otherwise": ("6, mandate", _malleable),
    "call_admitted_under_another": ("6, mandate", _body("call.admitted", mandate=digest(b""))),
    "call_of_another_workload": ("6, mandate", _body("call.identified", workload="spiffe://x/y")),
    "decision_by_unknown_bundle": ("7, policy", _body("call.decided", bundle=digest(b""))),
    "decision_by_no_bundle": ("7, policy", _body("call.decided", bundle=None)),
    "decision_bundle_a_list": ("7, policy", _body("call.decided", bundle=[digest(b"")])),
    "call_acted_without_decision": ("8, calls", _without("call.decided", 3)),
    "call_acted_though_denied": ("8, calls", _body("call.decided", 3, effect="deny")),
    "call_acted_though_unapproved": (
        "8, calls",
        _body("call.decided", 3, effect="approval_required"),
    ),
    "call_effect_a_list": ("8, calls", _body("call.decided", 3, effect=["permit"])),
    "call_acted_before_decision": ("8, calls", _early("call.succeeded", "call.decided")),
    "call_not_identified": ("8, calls", _without("call.identified", 1)),
    "call_not_admitted": ("8, calls", _without("call.admitted", 1)),
    "call_identified_twice": ("8, calls", _twice("call.identified", 1)),
    "call_decided_twice": ("8, calls", _twice("call.decided", 1)),
    "call_ended_twice": ("8, calls", _twice("call.succeeded")),
    "call_never_ended": ("8, calls", _without("call.denied")),
    "call_ended_in_two_ways": (
        "8, calls",
        lambda told: told.steps.insert(-2, Told("call.failed", {}, call="call_1")),
    ),
    "call_step_unknown": (
        "8, calls",
        lambda told: told.steps.insert(-2, Told("call.amended", {}, call="call_1")),
    ),
    "call_without_a_name": ("8, calls", lambda told: told.steps.insert(-2, Told("call.failed"))),
    "call_of_leases_only": (
        "8, calls",
        lambda told: told.steps.insert(-2, lease("reserved", "call_8", lease="lease_8")),
    ),
    "call_touched_another_target": ("8, calls", _body("call.succeeded", target="payments/payout")),
    "call_denied_by_another_decision": ("8, calls", _body("call.denied", decision="dec_9")),
    "call_unknown_without_permit": (
        "8, calls",
        lambda told: told.steps.__setitem__(
            told.steps.index(told.find("call.denied")), Told("call.unknown", {}, call="call_2")
        ),
    ),
    "call_acted_before_credential": (
        "8, calls",
        _early("lease.issued", "lease.settled"),
    ),
    "call_permitted_after_expiry": (
        "8, calls",
        lambda told: setattr(
            told.find("call.decided"), "at", packs.EXPIRES_AT + timedelta(seconds=1)
        ),
    ),
    "call_permitted_after_end": (
        "8, calls",
        _before_seal(*packs.call("call_9", "permit", "succeeded")),
    ),
    "call_permitted_beyond_mandate": ("8, calls", _target("payments/payout")),
    "call_permitted_for_another_action": (
        "8, calls",
        _target("payments/refund", "read_resource"),
    ),
    "call_permitted_beside_the_star": ("8, calls", _target("orders", "read_resource")),
    "call_target_a_list": ("8, calls", _body("call.decided", target=["payments/refund"])),
    "calls_beyond_budget": ("8, calls", _mandate(budget={"calls": 1})),
    "call_denied_yet_failed": (
        "8, calls",
        lambda told: told.steps.__setitem__(
            told.steps.index(told.find("call.denied")), Told("call.failed", {}, call="call_2")
        ),
    ),
    "approval_denied_before_use": (
        "9, approvals",
        _insert(Told("approval.denied", {"approval": "apr_1"}), "approval.used"),
    ),
    "approval_expired_before_use": (
        "9, approvals",
        _insert(Told("approval.expired", {"approval": "apr_1"}), "approval.used"),
    ),
    "approval_given_again_after_use": (
        "9, approvals",
        lambda told: told.steps.__setitem__(
            slice(-2, -2),
            [replace(told.find("approval.approved")), replace(told.find("approval.used"))],
        ),
    ),
    "approval_step_unknown": (
        "9, approvals",
        _insert(Told("approval.assumed", {"approval": "apr_1"}), "approval.used"),
    ),
    "approval_used_not_given": ("9, approvals", _without("approval.approved")),
    "approval_used_before_given": ("9, approvals", _early("approval.used", "approval.approved")),
    "approval_used_twice": ("9, approvals", _twice("approval.used")),
    "approval_given_by_nobody": ("9, approvals", _body("approval.approved", decided_by=None)),
    "approval_without_a_name": ("9, approvals", _body("approval.used", approval=None)),
    "lease_issued_after_settling": ("10, leases", _insert(lease("issued"), "lease.settled")),
    "lease_state_unknown": ("10, leases", _insert(lease("parked"), "lease.settled")),
    "lease_before_permit": ("10, leases", _early("lease.reserved", "call.decided")),
    "lease_used_by_a_denied_call": ("10, leases", _insert(lease("used", "call_2"), "call.denied")),
    "lease_used_after_settling": ("10, leases", _insert(lease("used"), "lease.settled")),
    "lease_used_before_it_was_there": ("10, leases", _insert(lease("used"), "lease.reserved")),
    "lease_used_after_the_end": ("5, chain", _before_seal(lease("used"))),
    "lease_refused_before_it_was_there": (
        "10, leases",
        _insert(lease("refused"), "lease.reserved"),
    ),
    "lease_reserved_twice": ("10, leases", _twice("lease.reserved")),
    "lease_never_reserved": ("10, leases", _without("lease.reserved")),
    "lease_never_settled": ("10, leases", _without("lease.settled")),
    "lease_alive_after_its_end": (
        "10, leases",
        lambda told: told.steps.insert(-2, lease("settling")),
    ),
    "lease_without_a_name": ("10, leases", _body("lease.settled", lease=None)),
    "lease_for_a_denied_call": (
        "10, leases",
        lambda told: told.steps.insert(
            told.steps.index(told.find("call.denied")), lease("reserved", "call_2", lease="l2")
        ),
    ),
}


@pytest.mark.parametrize("name", DISHONEST_AUTHORITY)
def test_a_story_that_does_not_hold_is_refused_though_the_log_signed_it(name: str):
    step, change = DISHONEST_AUTHORITY[name]
    told = tale()
    change(told)
    with pytest.raises(ProofError, match=f"^step {step}: "):
        verify_pack(told.data(), [VKEY])


def _pack(**changes: Any) -> Callable[[Pack], Pack]:
    return lambda pack: replace(pack, **changes)


def _record(place: int, **changes: Any) -> Callable[[Pack], Pack]:
    def change(pack: Pack) -> Pack:
        records = list(pack.records)
        records[place] = replace(records[place], **changes)
        return replace(pack, records=tuple(records))

    return change


def _cosigned_by(*signers: Any) -> Callable[[Pack], Pack]:
    def change(pack: Pack) -> Pack:
        extra = [cosign(pack.checkpoint, each, time=1) for each in signers]
        return replace(pack, checkpoint=with_signatures(pack.checkpoint, extra))

    return change


def _bad_cosignature(pack: Pack) -> Pack:
    bad = Signature(WITNESS.name, WITNESS.verifier.key_id, b"\x00" * 72)
    return replace(
        pack,
        witnesses=(WITNESS.verifier.vkey,),
        checkpoint=with_signatures(pack.checkpoint, [bad]),
    )


OTHER_KEY = ECKey.generate_key("P-256")
OTHER_BUNDLE = {"policies/all.cedar": "permit (principal, action, resource);\n"}

DISHONEST_EXPORTER = {
    "no_records": ("2, records", _pack(records=())),
    "record_not_canonical": ("2, records", _record(3, data=b'{"v":1}')),
    "record_of_another_task": ("2, records", _pack(task="task_2")),
    "log_of_another_name": ("3, checkpoint", _pack(origin="other.example/log")),
    "log_key_malformed": ("3, checkpoint", _pack(vkey="corp.example/log+00000000+AAAA")),
    "checkpoint_malformed": ("3, checkpoint", _pack(checkpoint=b"corp.example/log\n9\n")),
    "cosignature_of_nobody": ("3, checkpoint", _cosigned_by(WITNESS)),
    "cosignature_bad": ("3, checkpoint", _bad_cosignature),
    "cosignature_missing": ("3, checkpoint", _pack(witnesses=(WITNESS.verifier.vkey,))),
    "witness_is_a_log_key": ("3, checkpoint", _pack(witnesses=(LOG.verifier.vkey,))),
    "record_at_another_index": ("4, inclusion", _record(-1, index=99)),
    "proof_of_another_record": (
        "4, inclusion",
        lambda pack: _record(2, proof=pack.records[3].proof)(pack),
    ),
    "record_in_the_place_of_another_tasks": (
        "4, inclusion",
        lambda pack: _record(0, index=pack.records[0].index - 1)(pack),
    ),
    "proof_too_short": ("4, inclusion", _record(2, proof=())),
    "proof_of_other_hashes": ("4, inclusion", _record(2, proof=(b"\x00" * 32,) * 6)),
    "seal_hides_records": (
        "5, chain",
        lambda pack: replace(pack, records=(*pack.records[:15], *pack.records[16:])),
    ),
    "mandate_missing": ("6, mandate", _pack(mandates=())),
    "mandate_twice": ("6, mandate", lambda pack: replace(pack, mandates=pack.mandates * 2)),
    "mandate_signed_again": ("6, mandate", lambda pack: replace(pack, mandates=(sign(claims()),))),
    "mandate_not_a_jws": ("6, mandate", _pack(mandates=("a.b",))),
    "key_missing": ("6, mandate", _pack(keys=())),
    "key_of_another": ("6, mandate", _pack(keys=(jwk(OTHER_KEY),))),
    "key_of_another_by_its_name": ("6, mandate", _pack(keys=(jwk(OTHER_KEY, jwk().kid),))),
    "key_not_needed": (
        "6, mandate",
        _pack(keys=tuple(sorted((jwk(), jwk(OTHER_KEY)), key=lambda key: key.kid))),
    ),
    "key_not_on_the_curve": ("6, mandate", _pack(keys=(replace(jwk(), x=jwk().y),))),
    "bundle_missing": ("7, policy", _pack(bundles={})),
    "bundle_altered": ("7, policy", _pack(bundles={packs.BUNDLE_DIGEST: OTHER_BUNDLE})),
    "bundle_not_needed": (
        "7, policy",
        lambda pack: replace(
            pack,
            bundles={**pack.bundles, packs.manifest_digest(OTHER_BUNDLE): OTHER_BUNDLE},
        ),
    ),
    "payload_of_no_record": (
        "11, payloads",
        _pack(disclosed=(packs.PackedPayload(record="rec_9", name="x", salt=b"", data=b""),)),
    ),
    "payload_of_no_name": ("11, payloads", _pack(withheld=(("rec_000", "facts"),))),
    "payload_altered": (
        "11, payloads",
        _pack(
            disclosed=(
                packs.PackedPayload(record="rec_000", name="prompt", salt=b"0" * 16, data=b"x"),
            )
        ),
    ),
}


@pytest.mark.parametrize("name", DISHONEST_EXPORTER)
def test_a_pack_put_together_otherwise_is_refused(name: str):
    step, change = DISHONEST_EXPORTER[name]
    with pytest.raises(ProofError, match=f"^step {step}: "):
        verify_pack(tale().data(change), [VKEY])


def test_a_payload_is_not_both_shown_and_withheld():
    told = tale()
    told.disclose = frozenset({"prompt"})
    with pytest.raises(ProofError, match=r"^step 11, payloads: .*both"):
        verify_pack(told.data(_pack(withheld=(("rec_000", "prompt"),))))


@pytest.mark.parametrize(
    "kept",
    [
        b'{"salt":"00","prompt":"another"}',
        b"[]",
        b'{"salt":"zz","prompt":"x"}',
        b'{"salt":1}',
        b"x",
    ],
)
def test_a_prompt_that_the_mandate_was_not_signed_for_is_refused(kept: bytes):
    told = tale()
    told.disclose = frozenset({"prompt"})
    told.find("task.opened").payloads["prompt"] = kept
    with pytest.raises(ProofError, match=r"^step 11, payloads: "):
        verify_pack(told.data())


def test_a_pack_of_another_log_is_refused_whoever_it_says_it_is():
    told = tale()
    told.log = STRANGER
    assert not verify_pack(told.data()).trusted_key
    with pytest.raises(ProofError, match="none of the keys you gave"):
        verify_pack(told.data(), [VKEY])


def test_our_own_key_in_place_of_the_forgers_does_not_help_the_forger():
    told = tale()
    told.log = STRANGER
    with pytest.raises(ProofError, match=r"^step 3, checkpoint: "):
        verify_pack(told.data(_pack(vkey=VKEY)), [VKEY])


def test_a_malformed_key_of_the_callers_is_the_callers_fault():
    with pytest.raises(InputError):
        verify_pack(tale().data(), ["not a vkey"])


def test_what_is_said_of_a_lease_moves_it_nowhere():
    told = tale()
    settled = told.find("lease.settled")
    settling = told.steps.index(told.find("lease.settling"))
    told.steps.insert(settling, lease("used"))
    told.steps[told.steps.index(settled) : told.steps.index(settled)] = [
        lease("refused", why="its agent is not registered any more"),
        lease("irrevocable", confirmed=False),
        lease("revoke_asked", by="user:ada"),
    ]
    assert verify_pack(told.data(), [VKEY]).leases == {"settled": 1}
    told.steps.remove(settled)
    verdict = verify_pack(told.data(), [VKEY])
    assert verdict.leases == {"irrevocable": 1}
    assert "`lease_1` is gone" in " ".join(verdict.does_not_prove)
