"""A whole `remit up` killed under load with credentials out: the targets themselves are asked.

One upstream is a real PostgreSQL under a role for each call. The other gets a token for the task,
which its service asks Remit about: after a kill the token is refused though its task runs on.
With ``REMIT_CRASH_POINTS`` it is killed more often, and the task is completed and its seal verified.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import msgspec
import pytest
from authority import Place, call_tool
from lossy import Lossy
from postgres import postgres_server
from postgres_crm import ADMIN, ADMIN_PASSWORD, Seat, lay
from processes import Started, remit

from remit.model.lease import Lease, LeaseState

WORKERS = 4
POINTS = int(os.environ.get("REMIT_CRASH_POINTS", "0"))
KILLS = max(2, POINTS // 25)
pytestmark = [pytest.mark.crash, pytest.mark.real, pytest.mark.timeout(180 + 30 * KILLS)]
OVER = {LeaseState.SETTLED, LeaseState.FAILED}
UPSTREAMS = """
[upstream.desk.credential]
broker = "tokens"
scope = "task"
seconds = 3000
header = {{ X-Desk-Token = "{{token}}" }}
[broker.tokens]
kind = "jwt"
audience = "https://desk.example"
introspected = true

[upstream.crm]
environment = "dev"
[upstream.crm.sql]
default_schema = "crm"
[upstream.crm.sql.tables]
"crm.customer" = ["id", "name"]
[upstream.crm.credential]
broker = "crm-db"
[upstream.crm.credential.grant]
tables = [{{ schema = "crm", table = "customer" }}]
[broker.crm-db]
kind = "postgres"
host = "127.0.0.1"
port = {port}
database = "crm"
user = "{user}"
password_file = "admin-password"
"""
CAPABILITY = """
[[capability]]
tool = "crm/query"
args = { sql = true, parameters = true, statement = true, tables = true, reads = true, writes = true }
"""


class Overhearing(Lossy):
    """Relays to the helpdesk, and keeps each token that Remit showed it."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.heard: set[str] = set()

    async def _there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                found = re.findall(rb"(?i)x-desk-token: *([\w.-]+)", data)
                self.heard.update(each.decode() for each in found)
                writer.write(data)


@contextlib.asynccontextmanager
async def overhearing(place: Place) -> AsyncIterator[Overhearing]:
    made = Overhearing(place.desk)
    server = await asyncio.start_server(made.relay, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    place.config.write_text(place.config.read_text().replace(f":{place.desk}/mcp", f":{port}/mcp"))
    try:
        yield made
    finally:
        server.close()
        await made.stop()
        await server.wait_closed()


async def load(place: Place, svid: str, token: str) -> int:
    """Ask the database and the helpdesk until the authority is gone; return how often it worked."""
    worked = 0

    async def worker(number: int, session: aiohttp.ClientSession) -> None:
        nonlocal worked
        while True:
            target, arguments = "crm/query", {"sql": "select name from customer"}
            if number == 0:
                target = "desk/draft_reply"
                arguments = {"ticket": "5012", "body": "x"}
            try:
                said = await call_tool(session, place, target, arguments, svid=svid, token=token)
            except (aiohttp.ClientError, OSError, ValueError, IndexError):
                return
            assert said["result"]["isError"] is False, said
            worked += 1

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)) as session:
        await asyncio.gather(*(worker(number, session) for number in range(WORKERS)))
    return worked


async def active(place: Place, token: str) -> bool:
    """Ask as the helpdesk's service would (RFC 7662)."""
    headers = {"Authorization": f"Bearer {place.svid()}"}
    url = f"http://127.0.0.1:{place.port}/oauth/introspect"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data={"token": token}, headers=headers) as answer,
    ):
        assert answer.status == 200, await answer.text()
        said: bool = (await answer.json())["active"]
        return said


async def cli(*arguments: str | Path) -> int:
    """Run one command of the CLI; return its exit code, having said why where it is not 0."""
    command = [str(part) for part in remit(*arguments)]
    done = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await done.communicate()
    assert done.returncode is not None
    if done.returncode:
        print(said.decode())  # pytest shows it with the failure
    return done.returncode


async def swept(place: Place, until: set[str]) -> None:
    """Return when the sweep is through with these leases."""
    async with asyncio.timeout(60):
        while True:
            items = (await asyncio.to_thread(place.control.get, "leases"))["items"]
            if not until & {each["id"] for each in items}:
                return
            await asyncio.sleep(0.2)


def rows(place: Place) -> list[Lease]:
    """Return the lease book as it stands on disk."""
    with contextlib.closing(sqlite3.connect(place.folder / "s" / "remit.db")) as database:
        found = database.execute("SELECT document FROM leases").fetchall()
    return [msgspec.json.decode(row[0], type=Lease) for row in found]


@dataclass
class Killing:
    """One place whose authority is killed again and again, and what its kills left open."""

    place: Place
    seat: Seat
    relay: Overhearing
    chance: random.Random = field(default_factory=lambda: random.Random(20261125))
    task: str = ""
    token: str = ""
    left: set[str] = field(default_factory=set)
    """Leases that a kill left open, and whose mint was answered: a sweep ends them at once."""
    standing: int = 0

    async def begin(self) -> None:
        """Register the agent, look at both upstreams, and open the task that outlives every kill."""
        control = self.place.control
        await asyncio.to_thread(self.place.register)
        for name in ("crm", "desk"):
            await asyncio.to_thread(control.post, "catalog", "scan", body={"upstream": name})
        self.task, self.token = await asyncio.to_thread(self.place.open)

    async def load_and_kill(self, authority: Started) -> None:
        """Kill it with credentials out."""
        heard = set(self.relay.heard)
        loading = asyncio.create_task(load(self.place, self.place.svid(), self.token))
        async with asyncio.timeout(30):
            while heard == self.relay.heard:  # noqa: ASYNC110 - another process shows it
                await asyncio.sleep(0.02)
        fresh = self.relay.heard - heard
        assert all([await active(self.place, each) for each in fresh])
        await asyncio.sleep(self.chance.uniform(0.3, 1.0))
        authority.kill()
        assert await loading, "no call worked: there was no load"
        self.standing += len(await self.roles())
        left = [each for each in rows(self.place) if each.state not in OVER]
        assert left, "every lease was over when it was killed: nothing was shown"
        self.left |= {each.id for each in left if each.issued_at is not None}

    async def nothing_stands(self) -> None:
        """See, after a restart, that the sweep left nothing, by our word and by the targets'."""
        await swept(self.place, self.left)
        said = await cli("credential", "verify-none", "--config", self.place.config)
        assert said == 0
        assert not await self.roles()
        assert not any([await active(self.place, each) for each in self.relay.heard])

    async def roles(self) -> set[str]:
        """Ask the database for the roles of the installation."""
        installation = rows(self.place)[0].handle.rpartition("-")[0]
        return await asyncio.to_thread(self.seat.roles, installation)

    async def the_evidence_says_so(self) -> None:
        """See the end of every lease in the chain, and have an outsider verify the task's pack."""
        control, pack = self.place.control, self.place.folder / "task.pack"
        more = ["--open-task"]
        if POINTS:  # a mint that a kill cut short is given half a minute to land
            await swept(self.place, {each.id for each in rows(self.place)})
            await asyncio.to_thread(control.post, "tasks", self.task, "complete")
            more = []
        found = await asyncio.to_thread(control.get, "evidence", "tasks", self.task)
        ended = {
            each["body"]["lease"]: each["body"]["confirmed"]
            for each in found["records"]
            if each["kind"] in {"lease.settled", "lease.failed"}
        }
        assert self.left <= set(ended), "a kill left a lease open, and evidence knows no end of it"
        settled = {each.id for each in rows(self.place) if each.state is LeaseState.SETTLED}
        assert settled <= set(ended), "a lease is settled, and evidence does not say so"
        assert all(ended[each] for each in settled), "both targets confirm what they took back"
        config = self.place.config
        exported = await cli("evidence", "export", self.task, "--output", pack, "--config", config)
        assert exported == 0
        key = (await asyncio.to_thread(control.get, "status"))["log"]["vkey"]
        assert await cli("evidence", "verify", pack, "--vkey", key, *more) == 0


async def test_killed_under_load_no_credential_stands_and_each_that_was_has_its_end_in_evidence(
    tmp_path: Path,
):
    place = Place(tmp_path, budget=100_000)
    template = tmp_path / "templates" / "draft.toml"
    template.write_text(template.read_text() + CAPABILITY)
    (tmp_path / "admin-password").touch(mode=0o600)
    (tmp_path / "admin-password").write_text(ADMIN_PASSWORD)
    with postgres_server(fsync=True) as server, place.helpdesk():
        lay(server)
        tables = UPSTREAMS.format(port=server.port, user=ADMIN)
        place.config.write_text(place.config.read_text() + tables)
        async with overhearing(place) as relay:
            killing = Killing(place, Seat(server), relay)
            for kill in range(KILLS):
                with place.up() as authority:
                    await (killing.nothing_stands() if kill else killing.begin())
                    await killing.load_and_kill(authority)
            with place.up():
                await killing.nothing_stands()
                await killing.the_evidence_says_so()
            assert killing.standing, "no kill ever left a role behind: nothing was shown"
