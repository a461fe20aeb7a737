"""An MCP server over stdio as there are many: it logs in by libpq's variables, and stays logged in."""

from __future__ import annotations

import json
import os
import sys

import psycopg

connection = psycopg.connect("", autocommit=True)
for line in sys.stdin:
    request = json.loads(line)
    if "id" in request:
        name = connection.execute("SELECT name FROM crm.customer WHERE id = 1").fetchone()
        text = f"{os.getpid()} {name[0] if name else ''}"
        result = {"content": [{"type": "text", "text": text}], "resultType": "complete"}
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}))
        sys.stdout.write("\n")
        sys.stdout.flush()
