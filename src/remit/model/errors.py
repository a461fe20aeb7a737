"""Errors, divided by whose fault they are.

Messages are lowercase, one line, show input in backticks, and never hold a secret. ``status`` is
the HTTP status an edge answers with; ``code`` is stable and goes into evidence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from remit.model.record import Step

MAX_REASON = 2_000
"""Characters of a message that a record keeps: a message shows input, and a record has to fit a leaf."""

if TYPE_CHECKING:
    from remit.model.approval import Approval
    from remit.model.decision import Decision


class RemitError(Exception):
    """The root of what Remit raises on purpose."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "error"

    @property
    def reason(self) -> str:
        """The message as evidence keeps it: cut short where somebody made it long."""
        message = str(self)
        return message if len(message) <= MAX_REASON else f"{message[: MAX_REASON - 1]}…"

    def record(self) -> Step:
        """Return what evidence keeps of this failure: its code and its message."""
        return Step(kind="call.failed", body={"code": self.code, "reason": self.reason})


class UnidentifiedError(RemitError):
    """The caller did not show who it is: no identity, or one that does not hold."""

    status = 401
    code = "unidentified"

    def record(self) -> Step:
        """Return the refusal of an identity."""
        return Step(kind="call.unidentified", body={"code": self.code, "reason": self.reason})


class MandateError(RemitError):
    """The caller is known, but acts under no mandate that admits it."""

    status = 403
    code = "no_mandate"

    def record(self) -> Step:
        """Return the refusal of a task."""
        return Step(kind="call.unadmitted", body={"code": self.code, "reason": self.reason})


class DeniedError(RemitError):
    """Policy said no. Carries the decision, so that the edge can say why."""

    status = 403
    code = "denied"

    def __init__(self, decision: Decision, message: str | None = None) -> None:
        super().__init__(message or decision.sentence())
        self.decision = decision

    def record(self) -> Step:
        """Return the denial, which names its decision."""
        return Step(
            kind="call.denied",
            body={"code": self.code, "decision": self.decision.id, "reason": self.reason},
        )


class ApprovalRequiredError(DeniedError):
    """Policy says no for now: a person has to approve this exact call."""

    code = "approval_required"

    def __init__(self, decision: Decision, approval: Approval) -> None:
        super().__init__(
            decision, f"{decision.sentence()}; approval `{approval.id}` has been asked for"
        )
        self.approval = approval


class InputError(RemitError):
    """What was sent is malformed, oversized or ambiguous; nothing was changed."""

    status = 400
    code = "invalid_input"


class NotFoundError(RemitError):
    """There is no such thing, or the caller may not know of it."""

    status = 404
    code = "not_found"


class ConflictError(RemitError):
    """The thing is in a state that does not allow this."""

    status = 409
    code = "conflict"


class UpstreamError(RemitError):
    """The upstream tool server failed, timed out or could not be started."""

    status = 502
    code = "upstream"


class BrokerError(RemitError):
    """The target that mints credentials failed or refused."""

    status = 502
    code = "broker"


class NotMintedError(BrokerError):
    """The target answered, and nothing was minted: there is nothing that could still turn up."""

    code = "not_minted"


class EvidenceError(RemitError):
    """Evidence cannot be written. Ours, and fail closed: nothing acts."""

    status = 503
    code = "evidence"


class UnavailableError(RemitError):
    """A part of Remit itself is not ready; try again."""

    status = 503
    code = "unavailable"


class ConfigError(RemitError):
    """The configuration is wrong; the CLI exits with 2."""

    code = "config"


class ProofError(RemitError):
    """A proof, signature or pack does not verify. Never softened."""

    status = 422
    code = "proof"
