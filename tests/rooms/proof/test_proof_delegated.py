"""The pack of a delegated task holds its whole chain of mandates, and any link that lies is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import packs
import pytest
from joserfc.jwk import ECKey
from packs import LOG, Tale, claims, jwk, sign, tale

from remit.model.errors import ProofError
from remit.proof.encoding import digest
from remit.proof.pack import Pack
from remit.proof.verify import verify_pack

VKEY = LOG.verifier.vkey
LEAD = "spiffe://corp.example/agent/lead"
CHIEF = "spiffe://corp.example/agent/chief"


@dataclass
class Line:
    """Three mandates, each signed over the digest of the one above, with a lie put into one."""

    lies: dict[str, dict[str, Any]] = field(default_factory=dict)
    key: ECKey | None = None
    kid: str | None = None

    def signed(self) -> tuple[str, str, str]:
        root = self._sign("root", jti="task_r", sub=CHIEF, parent=None, budget={"calls": 5})
        middle = self._sign("middle", jti="task_m", sub=LEAD, parent=_named(root, "task_r", CHIEF))
        own = self._sign("own", parent=_named(middle, "task_m", LEAD))
        return own, middle, root

    def _sign(self, name: str, **changes: Any) -> str:
        key = (self.key if name == "middle" else None) or packs.MANDATE_KEY
        header = {"kid": self.kid} if name == "middle" and self.kid else {}
        return sign(claims(**{**changes, **self.lies.get(name, {})}), key=key, header=header)


def _named(signed: str, task: str, workload: str) -> dict[str, str]:
    return {"task": task, "mandate": digest(signed.encode()), "workload": workload}


def delegated(line: Line) -> tuple[Tale, Callable[[Pack], Pack]]:
    """Return the story of the task at the end of a line, and what puts the line into its pack."""
    told = tale()
    signed = line.signed()
    told.mandate = signed[0]
    opening = told.find("task.opened")
    opening.body["parent"] = "task_m"
    opening.parents = ("rec_of_the_parent",)
    return told, lambda pack: replace(pack, mandates=signed)


def test_a_delegated_tasks_pack_shows_who_stands_above_it():
    told, whole = delegated(Line())
    verdict = verify_pack(told.data(whole), [VKEY])
    said = " ".join(verdict.proves)
    assert f"{LEAD} delegated it (of task task_m), and {CHIEF} (of task task_r) to that one" in said
    owed = " ".join(verdict.does_not_prove)
    assert "task_m" in owed
    assert "task_r" in owed


def test_every_mandate_of_the_chain_may_be_signed_with_its_own_key():
    other = ECKey.generate_key("P-256")
    line = Line(key=other, kid=jwk(other).kid)
    told, whole = delegated(line)
    told.keys = tuple(sorted((jwk(), jwk(other)), key=lambda key: key.kid))
    assert verify_pack(told.data(whole), [VKEY]).sealed
    told.keys = (jwk(),)
    with pytest.raises(ProofError, match=r"^step 6, mandate: "):
        verify_pack(told.data(whole), [VKEY])


LIES: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "another_parent": ("6, mandate", {"own": {"parent": _named("x", "task_m", LEAD)}}),
    "no_parent": ("6, mandate", {"own": {"parent": None}}),
    "parent_a_text": ("6, mandate", {"own": {"parent": "task_m"}}),
    "root_with_a_parent": ("6, mandate", {"root": {"parent": _named("x", "task_x", LEAD)}}),
    "another_persons": ("6, mandate", {"middle": {"on_behalf_of": "user:eve@corp.example"}}),
    "another_authoritys": ("6, mandate", {"middle": {"iss": "spiffe://evil.example"}}),
    "middle_of_another_task": ("6, mandate", {"middle": {"jti": "task_x"}}),
    "middle_of_another_workload": ("6, mandate", {"middle": {"sub": "spiffe://corp.example/x"}}),
    "a_cycle": ("6, mandate", {"root": {"sub": packs.WORKLOAD}}),
    "longer_than_its_parent": (
        "6, mandate",
        {"middle": {"exp": int(packs.OPENED_AT.timestamp()) + 5}},
    ),
    "wider_than_its_parent": (
        "8, calls",
        {"middle": {"capabilities": [{"action": "call_tool", "target": "payments/other"}]}},
    ),
    "wider_than_the_root": (
        "8, calls",
        {"root": {"capabilities": [{"action": "call_tool", "target": "payments/other"}]}},
    ),
    "more_calls_than_the_root_had": ("8, calls", {"root": {"budget": {"calls": 1}}}),
}


@pytest.mark.parametrize("name", LIES)
def test_a_line_that_lies_is_found(name: str):
    step, lies = LIES[name]
    line = Line(lies)
    told, whole = delegated(line)
    if name == "no_parent":
        told.find("task.opened").body["parent"] = None
        told.find("task.opened").parents = ()
    with pytest.raises(ProofError, match=rf"^step {step}: "):
        verify_pack(told.data(whole), [VKEY])


def _without_root(pack: Pack) -> Pack:
    return replace(pack, mandates=pack.mandates[:2])


def _own_alone(pack: Pack) -> Pack:
    return replace(pack, mandates=pack.mandates[:1])


def _turned(pack: Pack) -> Pack:
    own, middle, root = pack.mandates
    return replace(pack, mandates=(own, root, middle))


def _one_more(pack: Pack) -> Pack:
    return replace(pack, mandates=(*pack.mandates, pack.mandates[-1]))


def _none(pack: Pack) -> Pack:
    return replace(pack, mandates=())


def _key_too_many(pack: Pack) -> Pack:
    other = jwk(ECKey.generate_key("P-256"))
    return replace(pack, keys=tuple(sorted((*pack.keys, other), key=lambda key: key.kid)))


@pytest.mark.parametrize(
    "change", [_without_root, _own_alone, _turned, _one_more, _none, _key_too_many]
)
def test_a_chain_of_mandates_is_there_whole_and_in_order(change: Callable[[Pack], Pack]):
    told, whole = delegated(Line())
    with pytest.raises(ProofError, match=r"^step 6, mandate: "):
        verify_pack(told.data(lambda pack: change(whole(pack))), [VKEY])


def test_a_task_that_the_log_says_was_delegated_has_a_parents_mandate():
    told = tale()
    told.find("task.opened").body["parent"] = "task_m"
    with pytest.raises(ProofError, match=r"^step 6, mandate: "):
        verify_pack(told.data(), [VKEY])


@pytest.mark.parametrize("parents", [("rec_a", "rec_b"), ("rec_001",)])
def test_a_delegated_opening_follows_from_one_record_of_its_parent(parents: tuple[str, ...]):
    told, whole = delegated(Line())
    if parents == ("rec_001",):
        # A later record follows from one that is not here: only the opening may.
        told.find("call.identified").parents = ("rec_of_the_parent",)
    else:
        told.find("task.opened").parents = parents
    with pytest.raises(ProofError, match=r"^step 5, chain: "):
        verify_pack(told.data(whole), [VKEY])


def test_what_a_task_delegated_is_named_and_has_a_pack_of_its_own():
    told = tale()
    step = packs.Told("task.delegated", {"child": "task_c", "workload": LEAD})
    told.steps.insert(1, step)
    verdict = verify_pack(told.data(), [VKEY])
    assert any("`task_c`" in sentence for sentence in verdict.does_not_prove)
    told.steps.remove(step)
    told.steps.insert(-1, step)
    with pytest.raises(ProofError, match=r"^step 5, chain: .*after the task ended"):
        verify_pack(told.data(), [VKEY])
