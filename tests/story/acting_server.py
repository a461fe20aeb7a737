"""A server over stdio that acts with its credential, again and again, for as long as it lives."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

out = Path(os.environ["OUT"]) / os.environ.get("TOKEN", "nothing")
pause = threading.Event()

for line in sys.stdin:
    request = json.loads(line)
    if "id" not in request:
        continue
    acts = os.open(out, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for _ in range(50):
        os.write(acts, b".")
        pause.wait(0.002)
    os.close(acts)
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": {}}) + "\n")
    sys.stdout.flush()
