"""A real `remit up` over a state folder that outlives it, for tests that kill it or starve it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from processes import ROOT, Started, free_port, listens, python, running

from remit.cli.client import ControlClient
from remit.evidence.ledger import Ledger
from remit.identity.trust_domain import TrustDomain
from remit.model.subject import SpiffeId
from remit.policy.facts import Facts
from remit.proof.checkpoint import Checkpoint, open_checkpoint
from remit.proof.encoding import canonical, digest
from remit.proof.merkle import leaf_hash
from remit.proof.note import Verifier
from remit.proof.tiles import decode_bundle, tiles_of
from remit.storage.sqlite.evidence import SqliteEvidence
from remit.storage.sqlite.journal import Journal

TRUST_DOMAIN = "crash.example"
VERSION = "2026-07-28"
HELPDESK = ROOT / "examples" / "helpdesk" / "server.py"
TEMPLATE = """\
purpose = "Draft"
expires_seconds = 3600
budget = { calls = BUDGET }
[[capability]]
tool = "desk/draft_reply"
args = { ticket = { type = "string" }, body = { type = "string" } }
"""
CONFIG = """\
[authority]
state = "s"
trust_domain = "crash.example"
listen = "127.0.0.1:{port}"
[upstream.desk]
url = "http://127.0.0.1:{desk}/mcp"
timeout_seconds = 5
[policy]
templates = "templates"
"""


@dataclass
class Place:
    """Where one authority lives: its folder, its ports, and the helpdesk that outlives it."""

    folder: Path
    port: int = field(default_factory=free_port)
    desk: int = field(default_factory=free_port)
    budget: int = 5000

    def __post_init__(self) -> None:
        (self.folder / "templates").mkdir()
        (self.folder / "templates" / "draft.toml").write_text(
            TEMPLATE.replace("BUDGET", str(self.budget))
        )
        self.config.write_text(CONFIG.format(port=self.port, desk=self.desk))

    @property
    def config(self) -> Path:
        return self.folder / "remit.toml"

    @property
    def control(self) -> ControlClient:
        return ControlClient(self.folder / "s" / "control.sock")

    @contextlib.contextmanager
    def helpdesk(self) -> Iterator[Started]:
        """Run the helpdesk: what it wrote is what acted."""
        database = self.folder / "desk.sqlite3"
        command = python(HELPDESK, "--http", "--port", str(self.desk), "--database", database)
        with running(command, log=self.folder / "desk.log") as started:
            started.wait_for(lambda: listens(self.desk), "helpdesk")
            yield started

    @contextlib.contextmanager
    def up(self, *before: str) -> Iterator[Started]:
        """Run `remit up`, under ``before`` (a command that executes the rest of its line)."""
        command = [*before, *python("-m", "remit.cli.main", "up", "--config", self.config)]
        log = self.folder / f"up{len(list(self.folder.glob('up*.log')))}.log"
        with running(command, log=log) as started:
            started.wait_for(self.answers, "remit up")
            yield started

    def answers(self) -> bool:
        """Whether the authority is alive."""
        with contextlib.suppress(OSError):
            return self.get("healthz")[0] == 200
        return False

    def get(self, path: str) -> tuple[int, Any]:
        """GET a public route; return status and JSON."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}/{path}", timeout=5
            ) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def leaf_hashes(self) -> list[bytes]:
        """Return the hash of every record that is published, read as an outsider reads it."""
        return [
            leaf_hash(entry)
            for tile in tiles_of(self.published().size)
            if tile.level is None
            for entry in decode_bundle(self.fetch(f"log/{tile.path}"), tile.width)
        ]

    def published(self) -> Checkpoint:
        """Return the last checkpoint, fetched as an outsider does, its signature verified."""
        key = self.control.get("status")["log"]["vkey"]
        return open_checkpoint(self.fetch("log/checkpoint"), [Verifier.parse(key)]).checkpoint

    def fetch(self, path: str) -> bytes:
        """GET the bytes of a public route."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=5) as answer:
            data: bytes = answer.read()
            return data

    def register(self, name: str = "drafter") -> None:
        """Register an agent, and see to it that the helpdesk's tools are known by then."""
        if listens(self.desk):  # remit looks by itself as well, in its own time
            self.control.post("catalog", "scan", body={"upstream": "desk"})
        self.control.post(
            "agents", body={"name": name, "owner": "user:ada", "templates": ["draft"]}
        )

    def open(self, name: str = "drafter") -> tuple[str, str]:
        """Open a task; return its id and its token."""
        opened = self.control.post("tasks", body={"agent": name, "template": "draft"})
        return opened["id"], opened["task_token"]

    def svid(self, name: str = "drafter") -> str:
        """Return an identity for an agent, signed with the authority's own keys."""
        domain = TrustDomain.open(
            self.folder / "s" / "keys", TRUST_DOMAIN, clock=lambda: datetime.now(UTC)
        )
        return domain.issue_jwt_svid(
            SpiffeId(TRUST_DOMAIN, f"/agent/{name}"), ["remit"], seconds=3000
        )

    async def permitted(self, task: str) -> dict[str, str]:
        """Return the body of each draft that was permitted, by its call, as evidence sealed it.

        Every one of them is checked against its record's digest. Nothing may run meanwhile.
        """
        journal = Journal.open(self.folder / "s" / "remit.db")
        ledger = Ledger(
            SqliteEvidence(journal), folder=self.folder / "s", trust_domain=TRUST_DOMAIN
        )
        found: dict[str, str] = {}
        try:
            for _, record in await ledger.chain(task):
                if record.body.get("effect") != "permit" or record.call is None:
                    continue
                opened = await ledger.open_payload(record.id, "facts")
                assert opened is not None
                facts = Facts.read(opened.data)
                arguments = dict(facts.arguments)
                exact = {"action": facts.action, "target": facts.target, "arguments": arguments}
                assert f"sha256:{facts.call_digest}" == digest(canonical(exact))
                found[record.call] = arguments["body"]
        finally:
            await journal.close()
        return found

    def drafts(self) -> list[str]:
        """Return the bodies of the replies that were really drafted."""
        with contextlib.closing(sqlite3.connect(self.folder / "desk.sqlite3")) as database:
            return [row[0] for row in database.execute("SELECT body FROM reply WHERE id > 0")]


async def draft(
    session: aiohttp.ClientSession, place: Place, *, svid: str, token: str, body: str
) -> dict[str, Any]:
    """Draft one reply; return the JSON-RPC answer."""
    arguments = {"ticket": "5012", "body": body}
    return await call_tool(session, place, "desk/draft_reply", arguments, svid=svid, token=token)


async def call_tool(
    session: aiohttp.ClientSession,
    place: Place,
    target: str,
    arguments: dict[str, Any],
    *,
    svid: str,
    token: str,
) -> dict[str, Any]:
    """Make one governed call of ``upstream/tool``; return the JSON-RPC answer."""
    upstream, _, tool = target.partition("/")
    message = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {
            "name": tool,
            "arguments": arguments,
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": VERSION,
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        },
    }
    headers = {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": VERSION,
        "Mcp-Method": "tools/call",
        "Mcp-Name": tool,
        "Authorization": f"Bearer {svid}",
        "Remit-Task": token,
    }
    url = f"http://127.0.0.1:{place.port}/mcp/{upstream}"
    async with session.post(url, json=message, headers=headers) as answer:
        text = await answer.text()
    data = [line[5:] for line in text.splitlines() if line.startswith("data:")]
    found: dict[str, Any] = json.loads(data[-1] if data else text)
    return found
