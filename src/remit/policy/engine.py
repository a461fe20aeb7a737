"""May they: one question in, one decision out, whatever goes wrong on the way.

- Undefined is never permit: no permit, an error in any policy, facts that cannot be shown whole, an
  obligation nobody knows: each denies, with a reason.
- Whether a person's yes would help is found by asking again with a supposed one in the facts, never
  by reading policies.
- A bundle can narrow authority and never widen it: what mandate, template, budget, registry or
  catalogue refuse stays refused, whatever a policy permits (``floor.py``).
- A decision is made by one bundle from first to last, whatever is loaded meanwhile.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from remit.model.catalogue import Tool
from remit.model.decision import Decision, Effect, Obligation, Reason
from remit.model.errors import InputError
from remit.model.ids import new_id
from remit.model.subject import Subject
from remit.model.task import Task
from remit.policy import floor
from remit.policy.bundle import Bundle
from remit.policy.facts import Facts, Question, gather, suppose_listed
from remit.policy.slices import Slice
from remit.policy.source import Source, filled, shown

__all__ = ["Policy", "Question", "Verdict", "evaluate"]

NO_ANSWER = "remit.no_answer"
"""Stands where a policy id would, when no policy but Remit itself denied."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a bundle says of some facts. ``raw_errors`` may hold argument values: never recorded."""

    effect: Effect
    reasons: tuple[Reason, ...]
    errors: tuple[str, ...] = ()
    raw_errors: tuple[str, ...] = ()
    obligations: tuple[Obligation, ...] = ()
    approval_role: str | None = None


class Policy:
    """The active bundle, asked. ``obligations`` are those that the enforcement points can meet."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        randomness: Callable[[int], bytes] = secrets.token_bytes,
        obligations: frozenset[str] = frozenset(),
    ) -> None:
        self._bundle = bundle
        self._clock = clock
        self._randomness = randomness
        self._obligations = obligations
        self._listeners: list[Callable[[], None]] = []

    async def decide(self, question: Question) -> Decision:
        """Answer one question. Never raises for policy trouble: errors deny."""
        bundle = self._bundle
        document = b""
        try:
            facts = gather(question, bundle.digest)
            document = facts.document()
            verdict = evaluate(bundle, facts, self._obligations)
        except InputError as error:
            verdict = _unanswered(str(error), str(error))
        except Exception as error:
            log.exception("policy could not answer", call=question.call.id)
            verdict = _unanswered("policy could not be asked", type(error).__name__)
        return Decision(
            id=new_id("dec", question.now, self._randomness(10)),
            effect=verdict.effect,
            reasons=verdict.reasons,
            errors=verdict.errors,
            bundle_digest=bundle.digest,
            facts=document,
            target=question.call.target,
            action=question.call.action,
            obligations=verdict.obligations,
            approval_role=verdict.approval_role,
        )

    def would_list(self, subject: Subject, task: Task, tools: Sequence[Tool]) -> Sequence[Tool]:
        """Return the tools that the task could be allowed with some arguments or some approval.

        Each is put to the active bundle with its arguments left out of account. It is what to
        show, and no permit: every call is decided by itself.
        """
        bundle, now = self._bundle, self._clock()
        listed = []
        for tool in tools:
            try:
                facts = suppose_listed(subject, task, tool, now)
                if facts is not None and _could_be(bundle, facts):
                    listed.append(tool)
            except Exception:
                log.exception("policy could not say whether to list", target=tool.target)
        return listed

    @property
    def bundle(self) -> Bundle:
        """The active bundle."""
        return self._bundle

    @property
    def bundle_digest(self) -> str:
        """The digest of the active bundle."""
        return self._bundle.digest

    def bundle_files(self) -> Mapping[str, bytes]:
        """Return the files of the active bundle by path."""
        return self._bundle.files

    def replace(self, bundle: Bundle) -> None:
        """Make another bundle the active one, between two decisions, and tell who listens."""
        self._bundle = bundle
        for tell in self._listeners:
            tell()

    def listen(self, tell: Callable[[], None]) -> None:
        """Call ``tell`` after every change of the bundle."""
        self._listeners.append(tell)


def evaluate(bundle: Bundle, facts: Facts, obligations: frozenset[str] = frozenset()) -> Verdict:
    """Return what a bundle says of these facts: the same for the same two, always.

    Raises:
        InputError: the bundle knows no such action.
    """
    part = bundle.slices.get(facts.action)
    if part is None:
        raise InputError(f"`{shown(facts.action)}` is not an action that policy decides")
    answer = part.ask(facts)
    if answer.errors:
        return _in_error(bundle, facts, answer.determining, answer.errors)
    determining = _in_order(bundle, answer.determining)
    if answer.allowed:
        return _permitted(determining, facts, obligations)
    reasons = _reasons(determining, facts)
    for role in _roles(determining, facts):
        if _would_permit(part, facts.supposing(role)):
            return Verdict(effect=Effect.APPROVAL_REQUIRED, reasons=reasons, approval_role=role)
    return Verdict(effect=Effect.DENY, reasons=reasons)


def _would_permit(part: Slice, facts: Facts) -> bool:
    if floor.beyond(facts) is not None or floor.still_asked(facts) is not None:
        return False
    supposed = part.ask(facts)
    return supposed.allowed and not supposed.errors


def _roles(determining: Sequence[Source], facts: Facts) -> Sequence[str]:
    """Return whom it could help to ask: the mandate's role, then those that the forbids name."""
    named = [facts.context["mandate"]["approval_role"]]
    named += [source.approval_role for source in determining if source.forbids]
    return list(dict.fromkeys(role for role in named if role))


def _permitted(determining: Sequence[Source], facts: Facts, known: frozenset[str]) -> Verdict:
    if (fault := floor.beyond(facts)) is not None:
        return Verdict(effect=Effect.DENY, reasons=(fault,))
    if (asked := floor.still_asked(facts)) is not None:
        role = facts.context["mandate"]["approval_role"]
        return Verdict(effect=Effect.APPROVAL_REQUIRED, reasons=(asked,), approval_role=role)
    wanted = dict.fromkeys(o for source in determining for o in source.obligations)
    if unknown := [obligation for obligation in wanted if obligation not in known]:
        return _unanswered(
            f"the permit obliges to `{unknown[0]}`, which no enforcement point knows",
            "unknown obligation",
        )
    return Verdict(
        effect=Effect.PERMIT,
        reasons=_reasons(determining, facts),
        obligations=tuple(Obligation(id=obligation) for obligation in wanted),
    )


def _in_error(
    bundle: Bundle, facts: Facts, determining: Sequence[str], errors: Sequence[str]
) -> Verdict:
    """Deny; name the policies that could not be evaluated, but none of Cedar's words on values."""
    at_fault = [s.id for s in bundle.sources if any(f"`{s.id}`" in error for error in errors)]
    said = tuple(f"policy `{name}` could not be evaluated" for name in at_fault)
    forbids = [s for s in _in_order(bundle, determining) if s.forbids]
    told = "; ".join(said) or "the request does not fit the schema of facts"
    reason = Reason(
        policy=at_fault[0] if at_fault else NO_ANSWER,
        sentence=f"{told}, and an error denies",
        remedy="an operator mends it: remit policy explain says what is wrong",
    )
    return Verdict(
        effect=Effect.DENY,
        reasons=(*_reasons(forbids, facts), reason),
        errors=said or (told,),
        raw_errors=tuple(errors),
    )


def _unanswered(sentence: str, error: str) -> Verdict:
    return Verdict(
        effect=Effect.DENY,
        reasons=(Reason(policy=NO_ANSWER, sentence=sentence),),
        errors=(error,),
    )


def _in_order(bundle: Bundle, names: Sequence[str]) -> Sequence[Source]:
    return [bundle.by_id[name] for name in sorted(names, key=lambda n: bundle.order[n])]


def _reasons(sources: Sequence[Source], facts: Facts) -> tuple[Reason, ...]:
    return tuple(
        Reason(
            policy=source.id,
            sentence=filled(source.reason, facts) or f"policy {source.id}",
            remedy=filled(source.remedy, facts) if source.remedy else None,
            controls=source.controls,
        )
        for source in sources
    )


def _could_be(bundle: Bundle, facts: Facts) -> bool:
    if floor.beyond(facts) is not None:
        return False
    part = bundle.slices[facts.action]
    answer = part.ask(facts, listing=True)
    roles = _roles(_in_order(bundle, answer.determining), facts)
    for role in [] if answer.allowed or answer.errors else roles:
        answer = part.ask(facts.supposing(role), listing=True)
        if answer.allowed:
            break
    return answer.allowed and not answer.errors
