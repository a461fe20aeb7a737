"""May they: one question in, one decision out, whatever goes wrong on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from remit.model.approval import Approval
from remit.model.call import Call
from remit.model.catalogue import Tool
from remit.model.decision import Decision
from remit.model.subject import Subject
from remit.model.task import Bounds, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Everything that policy is told of one call."""

    subject: Subject
    task: Task
    call: Call
    tool: Tool | None
    bounds: Bounds
    approval: Approval | None
    now: datetime


class Policy:
    """The active bundle, asked."""

    async def decide(self, question: Question) -> Decision:
        """Answer one question. Never raises for policy trouble: errors deny."""
        raise NotImplementedError

    def would_list(self, subject: Subject, task: Task, tools: Sequence[Tool]) -> Sequence[Tool]:
        """Return the tools that the task could be allowed."""
        raise NotImplementedError

    @property
    def bundle_digest(self) -> str:
        """The digest of the active bundle."""
        raise NotImplementedError

    def bundle_files(self) -> Mapping[str, bytes]:
        """Return the files of the active bundle by path."""
        raise NotImplementedError
