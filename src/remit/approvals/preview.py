"""What the approver is shown: the target and every argument, with nothing that can hide in it."""

from __future__ import annotations

import json

from remit.model.call import Call


def preview(call: Call) -> str:
    """Return the call as JSON in ASCII: bidirectional and control characters show as escapes."""
    shown = {"action": call.action, "target": call.target, "arguments": dict(call.arguments)}
    return json.dumps(shown, ensure_ascii=True, sort_keys=True)
