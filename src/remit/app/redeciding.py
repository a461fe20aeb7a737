"""Asks of every credential in use: would its lease be issued now? Those that would not are settled.

Called when the policy bundle changes and when an agent does. A call in flight is judged by the
question it was permitted under, with the agent, the task and the bundle of now; what it has spent
of its budget already is not counted against it twice, and a person's yes to it stands as given.

An agent that may not act has delegated nothing, either: what it did delegate ends here.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import structlog

from remit.app.disowned import end_disowned
from remit.model.decision import Effect
from remit.model.errors import RemitError
from remit.model.lease import Lease
from remit.model.record import Context, Step
from remit.policy.facts import Question
from remit.spine import Authority

log = structlog.get_logger()


class Redeciding:
    """Re-decides what runs; one round at a time, and another if something changed meanwhile."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._changed = False
        self._running: asyncio.Task[None] | None = None

    def changed(self) -> None:
        """Say that policy, a template or an agent changed; call it on the event loop."""
        self._changed = True
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._rounds(), name="remit-redecide")

    async def close(self) -> None:
        """Wait for the round that runs."""
        if self._running is not None:
            await self._running

    async def _rounds(self) -> None:
        while self._changed:
            self._changed = False
            for lease, question in self._authority.leases.bases():
                if isinstance(question, Question):
                    await self._ask(lease, question)
            try:
                await end_disowned(self._authority)
            except RemitError as error:
                log.warning("put off", what="ending delegated tasks", reason=str(error))
            except Exception:
                log.exception("ending delegated tasks broke")

    async def _ask(self, lease: Lease, question: Question) -> None:
        try:
            why = await self._refused(question)
            if why is None:
                return
            log.warning("a credential is taken back", lease=lease.id, reason=why)
            self._authority.evidence.stage(
                Step(kind="lease.refused", body={"lease": lease.id, "why": why}),
                Context(task=lease.task, call=lease.call),
            )
            await self._authority.leases.settle(lease)
        except RemitError as error:
            log.warning("put off", what="re-deciding", lease=lease.id, reason=str(error))
        except Exception:
            log.exception("re-deciding broke", lease=lease.id)

    async def _refused(self, question: Question) -> str | None:
        """Return why the lease would not be issued now; None where it would."""
        authority = self._authority
        if not authority.tasks.is_open(question.task.id):
            return "its task is not open any more"
        agent = authority.registry.get(question.subject.agent.name)
        if agent is None:
            return "its agent is not registered any more"
        task = await authority.tasks.get(question.task.id)
        bounds = replace(authority.tasks.measure(task, question.call), exhausted=())
        decision = await authority.policy.decide(
            replace(
                question,
                subject=replace(question.subject, agent=agent),
                task=task,
                tool=authority.catalogue.find(question.call.target),
                bounds=bounds,
                now=authority.clock(),
            )
        )
        if decision.effect is Effect.PERMIT:
            return None
        policies = ", ".join(reason.policy for reason in decision.reasons)
        return f"policy would not permit it now ({policies or decision.effect.value})"
