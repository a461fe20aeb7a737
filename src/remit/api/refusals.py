"""What is left of a control request that was refused: a record where somebody is known, else a count.

Who is known and may not (a missing role, an approver who may not decide) is an event worth an
auditor's look, and as rare as people are. A request without any token comes from whoever reaches the
port: a record of each would let anybody make the log grow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request

from remit.api.callers import ForbiddenError, NoTokenError
from remit.approvals.desk import NotEligibleError
from remit.model.errors import RemitError, UnidentifiedError
from remit.model.record import Context, Recorder, Step

_MOST_PATH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusals:
    """Notes refusals; ``count`` takes one of ``no_token``, ``unidentified``, ``forbidden``, ``not_eligible``."""

    recorder: Recorder
    count: Callable[[str], None]

    async def noted(self, request: Request, error: RemitError) -> None:
        """Count a refusal, and leave a durable record where somebody identified was refused.

        Raises:
            EvidenceError: it could not be recorded.
        """
        if isinstance(error, UnidentifiedError):
            # One whose token does not hold has its record already, from the identity desk.
            self.count("no_token" if isinstance(error, NoTokenError) else "unidentified")
        if not isinstance(error, ForbiddenError | NotEligibleError):
            return
        self.count(error.code)
        path = request.url.path.encode("ascii", "backslashreplace").decode()
        step = Step(
            kind="control.refused",
            body={
                "by": getattr(request.state, "asker", None),
                "method": request.method,
                "path": path[:_MOST_PATH],
                "code": error.code,
                "reason": error.reason,
            },
        )
        task = error.task if isinstance(error, NotEligibleError) else None
        self.recorder.stage(step, Context(task=task))
        await self.recorder.barrier()
