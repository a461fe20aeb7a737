"""How a refusal reads: to the model as a tool result, to a client as a JSON-RPC error.

A model that is told why, by which policy, and what would make it allowed can do something sensible
next; one that sees a bare code tries again. So tools answer with ``isError`` and plain words; a
protocol error is used only where MCP has no such result (resources and prompts), with a code
outside -32768..-32000, which MCP 2026-07-28 keeps for itself.
"""

from __future__ import annotations

from typing import Any

import msgspec

from remit.gateway.messages import INTERNAL_ERROR, RequestId, rpc_error
from remit.gateway.wire import Message, ProtocolError
from remit.model.decision import Decision
from remit.model.errors import (
    ApprovalRequiredError,
    DeniedError,
    EvidenceError,
    MandateError,
    RemitError,
    UnavailableError,
    UpstreamError,
)

DECISION_META = "dev.remit/decision"
"""The key of ``_meta`` (or of an error's ``data``) under which a refusal explains itself."""

_encoder = msgspec.json.Encoder()


def protocol_error(error: ProtocolError) -> bytes:
    """Return what the protocol answers to a request that it refuses."""
    return rpc_error(error.request_id, error.rpc_code, str(error), error.data)


def refusal(message: Message, error: RemitError) -> bytes:
    """Return the refusal of a governed call, as the message that answers it."""
    if message.method == "tools/call":
        return tool_result(message, explain(error), meta={DECISION_META: about(error)}, failed=True)
    return failure(message.id, error)


def failure(request_id: RequestId | None, error: RemitError) -> bytes:
    """Return an error of ours as a JSON-RPC error: its code is the HTTP status it stands for."""
    return rpc_error(request_id, error.status, explain(error), {DECISION_META: about(error)})


def internal(request_id: RequestId | None) -> bytes:
    """Return the answer to a fault of ours; what it was is in the log, not here."""
    return rpc_error(request_id, INTERNAL_ERROR, "remit failed inside; the call was not completed")


def tool_result(
    message: Message,
    text: str,
    *,
    structured: dict[str, Any] | None = None,
    meta: dict[str, Any] | None = None,
    failed: bool = False,
) -> bytes:
    """Return a tool result with one text, in the shape of the message's era."""
    result: dict[str, Any] = {"content": [{"type": "text", "text": text}], "isError": failed}
    if message.modern:
        result["resultType"] = "complete"
    if structured is not None:
        result["structuredContent"] = structured
    if meta is not None:
        result["_meta"] = meta
    return _encoder.encode({"jsonrpc": "2.0", "id": message.id, "result": result})


_SERVER_FAULT = 500


def about(error: RemitError) -> dict[str, Any]:
    """Return the machine's side of a refusal."""
    if not isinstance(error, DeniedError):
        # A dead upstream or a full disk is no refusal: nobody said no.
        effect = "failed" if error.status >= _SERVER_FAULT else "deny"
        return {"effect": effect, "code": error.code, "policies": []}
    decision = error.decision
    told: dict[str, Any] = {
        "effect": decision.effect.value,
        "code": error.code,
        "decision": decision.id,
        "policies": [reason.policy for reason in decision.reasons],
    }
    if isinstance(error, ApprovalRequiredError):
        told["approval"] = error.approval.id
        told["expires_at"] = error.approval.expires_at.isoformat()
    return told


def explain(error: RemitError) -> str:
    """Return, in plain words, what was refused, why, and what to do about it."""
    if isinstance(error, ApprovalRequiredError):
        approval, decision = error.approval, error.decision
        return (
            f"Not done yet: `{decision.target}` needs a person's approval. {_why(decision)}"
            f"Approval `{approval.id}` has been asked of the role `{approval.role}` and expires at "
            f"{approval.expires_at.isoformat(timespec='seconds')}. Once it is approved, repeat "
            "exactly this call, with the same arguments; a changed call needs its own approval."
        )
    if isinstance(error, DeniedError):
        decision = error.decision
        return (
            f"Refused: `{decision.target}` is not allowed. {_why(decision)}"
            f"Nothing was done. Decision `{decision.id}`."
        )
    for kind, form in _FORMS:
        if isinstance(error, kind):
            return form.format(error)
    return f"Refused: {error}."


_FORMS: tuple[tuple[type[RemitError], str], ...] = (
    (MandateError, "Refused: {}. Nothing was done."),
    (UpstreamError, "Failed: {}."),
    (
        EvidenceError,
        "Failed: {}. Remit neither acts nor reports success without a durable record; try later.",
    ),
    (UnavailableError, "Failed: {}. Try again later."),
)


def _why(decision: Decision) -> str:
    parts = []
    for reason in decision.reasons:
        parts.append(f"{_sentence(reason.sentence)} (policy `{reason.policy}`). ")
        if reason.remedy:
            parts.append(f"To make it allowed: {reason.remedy.rstrip('.')}. ")
    if not parts:
        parts.append("No policy permits it, and what no policy permits is denied. ")
    return "".join(parts)


def _sentence(text: str) -> str:
    text = text.rstrip(".")
    return text[:1].upper() + text[1:]
