"""A server over stdio with nothing in it but the standard library, because it starts at once.

Both eras: it answers ``initialize`` and ``server/discover`` and never asks which one it is in.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

_lock = threading.Lock()
_waiting: dict[Any, tuple[threading.Event, str]] = {}


def say(**message: Any) -> None:
    with _lock:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0"} | message) + "\n")
        sys.stdout.flush()


def text(request: dict[str, Any], words: str, **more: Any) -> None:
    result = {"content": [{"type": "text", "text": words}], "resultType": "complete"}
    say(id=request["id"], result=result | more)


def steps(request: dict[str, Any]) -> None:
    params = request["params"]
    pause = threading.Event()
    for step in range(params["arguments"]["count"]):
        token = params["_meta"]["progressToken"]
        say(
            method="notifications/progress",
            params={"progressToken": token, "progress": step + 1},
        )
        pause.wait(0.01)
    text(request, "done")


def call(request: dict[str, Any]) -> None:
    name, arguments = request["params"]["name"], request["params"].get("arguments", {})
    if name == "echo":
        text(request, arguments["text"])
    elif name == "about":
        seen = {"pid": os.getpid(), "env": dict(os.environ)}
        text(request, json.dumps(seen), structuredContent=seen)
    elif name == "steps":
        threading.Thread(target=steps, args=(request,), daemon=True).start()
    elif name == "wait_for":
        _waiting[request["id"]] = (threading.Event(), arguments["path"])
    elif name == "ask":
        say(id="q1", method="elicitation/create", params={"message": "sure?"})
        _waiting["q1"] = (threading.Event(), request["id"])
    elif name == "die":
        sys.stderr.write("dying on purpose\n")
        sys.stderr.flush()
        os._exit(3)
    elif name == "spam":
        sys.stdout.write("x" * arguments["size"] + "\n")
        sys.stdout.flush()


def main() -> None:
    tool = {"name": "echo", "inputSchema": {"type": "object", "$defs": {"a": {"$anchor": "b"}}}}
    about = {
        "capabilities": {"tools": {}},
        "protocolVersion": "2025-11-25",
        "serverInfo": {"name": "bare", "version": "1"},
        "supportedVersions": ["2026-07-28"],
        "ttlMs": 0,
        "cacheScope": "private",
        "resultType": "complete",
    }
    for line in sys.stdin:
        message = json.loads(line)
        method = message.get("method")
        if method in {"initialize", "server/discover"}:
            say(id=message["id"], result=about)
        elif method == "tools/list":
            listed = {"tools": [tool], "ttlMs": 0, "cacheScope": "public", "resultType": "complete"}
            say(id=message["id"], result=listed)
        elif method == "tools/call":
            call(message)
        elif method == "notifications/cancelled":
            _, path = _waiting.pop(message["params"]["requestId"])
            Path(path).write_text("cancelled")
        elif method is None:
            _, asked = _waiting.pop(message["id"])
            text({"id": asked}, json.dumps(message["result"]))
        elif "id" in message:
            say(id=message["id"], error={"code": -32601, "message": "no such method"})


main()
