"""The facts of one question, and the projection of them that a slice of policy reads.

``document`` is everything that policy was given: it goes to the vault, and a decision can be asked
again from it alone. What Cedar evaluates is cut from it by the bundle, always in the same way.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from remit.model.approval import Approval, ApprovalState
from remit.model.call import CALL_TOOL, GET_PROMPT, READ_RESOURCE, Call
from remit.model.catalogue import Tool, ToolState
from remit.model.errors import InputError
from remit.model.label import Label
from remit.model.mandate import Mandate, Template
from remit.model.subject import Environment, Subject
from remit.model.task import Bounds, Task, TaskState
from remit.policy.arguments import Flat, flatten

VERSION = 1
KINDS = {CALL_TOOL: "tool", READ_RESOURCE: "resource", GET_PROMPT: "prompt"}
"""What kind of target each action is for."""
_RANK = {Environment.DEV: 0, Environment.STAGING: 1, Environment.PROD: 2}
_UNKNOWN: Mapping[str, Any] = {
    "kind": "none",
    "state": ToolState.UNKNOWN.value,
    "environment": Environment.PROD.value,
    "environment_rank": _RANK[Environment.PROD],
    "side_effects": True,
    "label": {"confidentiality": 0, "trusted": False, "categories": []},
    "destinations": [],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Everything that policy is told of one call.

    ``now`` is the time of the decision, aware. ``bounds`` is how the tasks room measured the call;
    ``approval`` what the approvals room found granted for exactly it.
    """

    subject: Subject
    task: Task
    call: Call
    tool: Tool | None
    bounds: Bounds
    approval: Approval | None
    now: dt.datetime


class Facts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What policy is given, as JSON values. Argument maps are keyed as ``arguments.py`` says.

    ``call_digest`` is no fact: it binds the decision to one exact call. It is not salted, so it
    stands here, in what evidence seals, and not in the record.
    """

    version: int = VERSION
    call_digest: str = ""
    principal: str
    action: str
    upstream: str
    target: str
    context: dict[str, Any]
    arguments: dict[str, str]
    numbers: dict[str, int]
    decimals: dict[str, str]
    argument_types: dict[str, str]

    def document(self) -> bytes:
        """Return the facts as the JSON bytes that evidence seals."""
        return msgspec.json.encode(self)

    @classmethod
    def read(cls, document: bytes) -> Facts:
        """Read facts back from the bytes that evidence sealed.

        Raises:
            InputError: they are not facts of this version.
        """
        try:
            facts = msgspec.json.decode(document, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError("this is not the facts of a decision") from error
        if facts.version != VERSION:
            raise InputError(f"facts of version `{facts.version}` are not read here")
        return facts

    def supposing(self, role: str) -> Facts:
        """Return these facts as they would be with an approval by somebody in ``role``."""
        approval = {"present": True, "role": role, "by": "hypothetical"}
        return msgspec.structs.replace(self, context={**self.context, "approval": approval})


def gather(question: Question, bundle_digest: str) -> Facts:
    """Return the facts of a question, as the bundle with this digest is given them.

    Raises:
        InputError: policy could not be shown every argument.
    """
    flat = flatten(question.call.arguments)
    approval = _approval(question, bundle_digest)
    return _facts(question, flat, approval)


def suppose_listed(subject: Subject, task: Task, tool: Tool, now: dt.datetime) -> Facts | None:
    """Return the facts of a call of ``tool`` with no argument looked at, or None for a stray kind.

    Budget and bounds are left out: they belong to one call, not to the list.
    """
    action = next((a for a, kind in KINDS.items() if kind == tool.kind), None)
    if action is None:
        return None
    upstream, _, name = tool.target.partition("/")
    named = [covering(each.mandate, action, tool.target) for each in task.chain]
    bound = [covering(each.template, action, tool.target) for each in task.chain]
    role = next((c.approval for found in (*named, *bound) for c in found if c.approval), None)
    question = Question(
        subject=subject,
        task=task,
        call=Call(id="", action=action, upstream=upstream, name=name, arguments={}, digest=""),
        tool=tool,
        bounds=Bounds(in_template=all(bound), in_mandate=all(named), approval_role=role),
        approval=None,
        now=now,
    )
    return _facts(question, Flat(), _NO_APPROVAL)


def covering(authority: Mandate | Template, action: str, target: str) -> Sequence[Any]:
    """Return the capabilities that name this action on this target, arguments aside."""
    found = []
    for capability in authority.capabilities:
        if capability.action != action:
            continue
        wild = action == READ_RESOURCE and capability.target.endswith("*")
        if capability.target == target or (wild and target.startswith(capability.target[:-1])):
            found.append(capability)
    return found


_NO_APPROVAL: Mapping[str, Any] = {"present": False, "role": "", "by": ""}


def _approval(question: Question, bundle_digest: str) -> Mapping[str, Any]:
    """Present only if it is a yes to this call, in this task, under this bundle, and in time."""
    given = question.approval
    if (
        given is None
        or given.state is not ApprovalState.APPROVED
        or given.call_digest != question.call.digest
        or given.task != question.task.id
        or given.bundle_digest != bundle_digest
        or given.expires_at <= question.now
    ):
        return _NO_APPROVAL
    return {"present": True, "role": given.role, "by": given.decided_by or ""}


def _facts(question: Question, flat: Flat, approval: Mapping[str, Any]) -> Facts:
    call = question.call
    now = question.now.astimezone(dt.UTC)
    return Facts(
        call_digest=call.digest,
        principal=question.subject.agent.name,
        action=call.action,
        upstream=call.upstream,
        target=call.target,
        context={
            "subject": _subject(question.subject),
            "mandate": _mandate(question.task, question.bounds, now),
            "task": {
                "id": question.task.id,
                "open": all(each.state is TaskState.OPEN for each in question.task.chain),
                "label": _label(question.task.held),
            },
            "tool": _tool(question.tool, call),
            "call": {"upstream": call.upstream, "name": call.name},
            "approval": dict(approval),
            "time": {"now": _instant(now), "hour": now.hour, "weekday": now.isoweekday()},
            "argument_names": flat.names,
        },
        arguments=flat.text,
        numbers=flat.numbers,
        decimals=flat.decimals,
        argument_types=flat.types,
    )


def _instant(when: dt.datetime) -> str:
    return (
        when.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03}Z"
    )


def _label(label: Label) -> dict[str, Any]:
    return {
        "confidentiality": int(label.confidentiality),
        "trusted": label.trusted,
        "categories": sorted(label.categories),
    }


def _subject(subject: Subject) -> dict[str, Any]:
    agent = subject.agent
    return {
        "agent": agent.name,
        "workload": str(subject.workload),
        "method": subject.method,
        "issuer": subject.issuer,
        "owner": agent.owner or "",
        "environment": agent.environment.value,
        "environment_rank": _RANK[agent.environment],
        "autonomy": agent.autonomy,
        "state": agent.state.value,
        "max_depth": agent.max_depth,
    }


def _mandate(task: Task, bounds: Bounds, now: dt.datetime) -> dict[str, Any]:
    mandate, chain = task.mandate, task.chain
    bounding = [part for each in chain for part in (each.mandate, each.template)]
    ends_at = min(each.mandate.expires_at for each in chain)
    facts: dict[str, Any] = {
        "purpose": mandate.purpose,
        "template": mandate.template,
        "on_behalf_of": mandate.on_behalf_of,
        "opened_by": mandate.opened_by,
        "in_template": bounds.in_template,
        "in_mandate": bounds.in_mandate,
        "violations": list(bounds.violations),
        "exhausted": list(bounds.exhausted),
        "approval_role": bounds.approval_role or "",
        "environments": [
            e.value for e in mandate.environments if all(e in b.environments for b in bounding)
        ],
        "ceiling": int(min(bound.data_ceiling for bound in bounding)),
        "egress": [host for host in mandate.egress if all(host in b.egress for b in bounding)],
        "expires_at": _instant(ends_at),
        "expired": ends_at <= now,
        "delegated": mandate.parent is not None,
        "depth": len(task.above),
        "delegated_by": "" if mandate.parent is None else str(mandate.parent.workload),
    }
    if bounds.calls_left is not None:
        facts["calls_left"] = bounds.calls_left
    return facts


def _tool(tool: Tool | None, call: Call) -> dict[str, Any]:
    """A target catalogued as another kind, or under another name, is not known as this one."""
    if tool is None or tool.target != call.target or tool.kind != KINDS.get(call.action):
        return dict(_UNKNOWN)
    return {
        "kind": tool.kind,
        "state": tool.state.value,
        "environment": tool.environment.value,
        "environment_rank": _RANK[tool.environment],
        "side_effects": tool.side_effects,
        "label": _label(tool.label),
        "destinations": list(tool.destinations),
    }
