"""A server over stdio that is careless: it prints its environment wherever it can, then dies."""

from __future__ import annotations

import base64
import json
import os
import sys
from typing import Any
from urllib.parse import quote

TOOLS = ("spill", "crash")


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0"} | message) + "\n")
    sys.stdout.flush()


def spilled() -> list[str]:
    """Return the environment in every dress that a careless server prints it in."""
    whole = json.dumps(dict(os.environ))
    texts = [whole]
    for value in os.environ.values():
        raw = value.encode()
        texts += [value, f"dsn=x://{value}@h", json.dumps(value), quote(value, safe="")]
        texts += [raw.hex(), base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()]
        texts += [base64.b64encode(b"user:" + raw).decode()]
    return texts


def call(request: dict[str, Any]) -> None:
    texts = spilled()
    for text in texts:
        sys.stderr.write(text + "\n")
    sys.stderr.flush()
    if request["params"]["name"] == "crash":
        os._exit(3)
    say({"method": "notifications/message", "params": {"level": "info", "data": texts}})
    content = [{"type": "text", "text": text} for text in texts]
    say({"id": request["id"], "result": {"content": content, "resultType": "complete"}})


ABOUT = {
    "capabilities": {"tools": {}},
    "protocolVersion": "2025-11-25",
    "serverInfo": {"name": "spilling", "version": "1"},
    "supportedVersions": ["2026-07-28"],
    "ttlMs": 0,
    "cacheScope": "private",
    "resultType": "complete",
}

for line in sys.stdin:
    asked = json.loads(line)
    method = asked.get("method")
    if method in {"initialize", "server/discover"}:
        say({"id": asked["id"], "result": ABOUT})
    elif method == "tools/list":
        tools = [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]
        listed = {"tools": tools, "ttlMs": 0, "cacheScope": "public", "resultType": "complete"}
        say({"id": asked["id"], "result": listed})
    elif method == "tools/call":
        call(asked)
    elif "id" in asked:
        say({"id": asked["id"], "error": {"code": -32601, "message": "no such method"}})
