"""Governed calls that use a certificate of their task for real, until it ends; and what pages say."""

from __future__ import annotations

import asyncio
import re
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from certificate_house import INSTALLATION, surroundings
from nginx import Nginx, nginx
from openssh import ACCOUNT, USER, Sshd, sshd
from processes import ROOT, free_port
from world import World, standing

from remit.closing import close_task
from remit.credentials.leases import Leases
from remit.credentials.port import Binding, Broker
from remit.credentials.sealing import KeySeal
from remit.model.call import Call
from remit.model.decision import Decision
from remit.model.lease import Credential, LeaseScope
from remit.model.outcome import Ending, Outcome
from remit.model.task import TaskState
from remit.plugins import load_broker
from remit.storage.sqlite.leases import SqliteLeases
from remit.testing.broker_suite import Lab

pytestmark = pytest.mark.real

PAGES = ROOT / "docs" / "brokers"


def bind(world: World, broker: Broker, scope: LeaseScope, **grant: Any) -> None:
    """Give calls of ``desk`` a certificate."""
    leases = Leases(
        bindings={"desk": Binding(name="own", broker=broker, scope=scope, grant=grant)},
        store=SqliteLeases(world.house.journal),
        recorder=world.authority.evidence,
        clock=world.authority.clock,
        seal=KeySeal(bytes(32)),
        installation=INSTALLATION,
    )
    object.__setattr__(world.house.authority, "leases", leases)


async def settled(world: World) -> list[tuple[str, bool]]:
    kept = [record for _, record in await world.authority.evidence.records(limit=1000)]
    return [
        (each.body["revocation"], each.body["confirmed"])
        for each in kept
        if each.kind == "lease.settled"
    ]


async def test_a_call_runs_its_one_command_on_a_host_and_nobody_after_it(tmp_path: Path):
    port = free_port()
    table = {
        "kind": "ssh",
        "krl": {"file": "revoked.krl"},
        "probe": {
            "host": "127.0.0.1",
            "port": port,
            "user": USER,
            "known_hosts_file": "sshd/known_hosts",
        },
    }
    (tmp_path / "world").mkdir()
    broker, _ = load_broker("hosts", table, surroundings(tmp_path))
    authority = tmp_path / "state/brokers/hosts.pub"
    used: list[Credential] = []
    with sshd(tmp_path / "sshd", authority, tmp_path / "revoked.krl", port=port) as server:

        async def act(call: Call, decision: Decision, credential: Credential | None) -> Outcome:
            del decision
            assert credential is not None
            used.append(credential)
            done = await asyncio.to_thread(
                server.login, credential.values, "rm -rf /", folder=tmp_path / "client"
            )
            return Outcome(ending=Ending.SUCCEEDED, target=call.target, result=done.stdout.encode())

        async with standing(tmp_path / "world") as world:
            words = ["echo", "ticket", "--", "{args.id}"]
            bind(world, broker, LeaseScope.CALL, principals=[ACCOUNT], force_command=words)
            assert (await world.perform(act=act)).result == b"ticket -- 88\n"
            log = (tmp_path / "sshd/log").read_text()
            assert f"{world.opened.task.id} (serial" in log, "sshd's log names the task"
            after = server.login(used[0].values, folder=tmp_path / "client")
            assert "Permission denied (publickey)" in after.stderr
            assert await settled(world) == [("immediate", True)]


async def test_a_task_reads_with_a_certificate_of_its_own_and_nobody_after_its_end(
    tmp_path: Path,
):
    port = free_port()
    authority, crl = tmp_path / "state/brokers/mesh.pem", tmp_path / "crl.pem"
    command = Nginx(tmp_path / "nginx", port, authority, crl).command("-s", "reload")
    table = {
        "kind": "x509",
        "crl": {"file": "crl.pem", "command": command},
        "probe": {"url": f"https://127.0.0.1:{port}/", "ca_file": "nginx/server.crt"},
    }
    (tmp_path / "world").mkdir()
    broker, _ = load_broker("mesh", table, surroundings(tmp_path))
    used: list[Credential] = []

    async def ask(credential: Credential) -> tuple[int, bytes]:
        both = tmp_path / "client.pem"
        both.write_text(credential.values["bundle"])
        context = ssl.create_default_context(cafile=tmp_path / "nginx/server.crt")
        context.load_cert_chain(both)
        url = f"https://127.0.0.1:{port}/"
        async with aiohttp.ClientSession() as http, http.get(url, ssl=context) as answer:
            return answer.status, await answer.read()

    async def act(call: Call, decision: Decision, credential: Credential | None) -> Outcome:
        del decision
        assert credential is not None
        used.append(credential)
        status, said = await ask(credential)
        assert status == 200
        return Outcome(ending=Ending.SUCCEEDED, target=call.target, result=said)

    with nginx(tmp_path / "nginx", authority, crl, port=port):
        async with standing(tmp_path / "world") as world:
            bind(world, broker, LeaseScope.TASK, common_name="{task.id}")
            task = world.opened.task.id
            for _ in range(2):
                said = (await world.perform(act=act)).result
                assert said is not None
                assert said.startswith(f"CN={task} ".encode())
            assert len({each.values["certificate"] for each in used}) == 1
            assert task in used[0].values["uri"]
            await close_task(task, TaskState.COMPLETED, "user:ada", world.authority)
            assert (await ask(used[0]))[0] == 400
            assert await settled(world) == [("immediate", True)]


async def test_the_pages_script_ends_the_sessions_of_one_certificate(tmp_path: Path):
    [text] = re.findall(r"```sh\n(.*?)```", (PAGES / "ssh.md").read_text(), re.DOTALL)
    script = tmp_path / "end-remit-sessions"
    script.write_text(text)
    script.chmod(0o755)
    table = {"kind": "ssh", "krl": {"file": "revoked.krl"}, "terminate": [str(script)]}
    broker, _ = load_broker("hosts", table, surroundings(tmp_path))
    authority, krl = tmp_path / "state/brokers/hosts.pub", tmp_path / "revoked.krl"

    class Seat:
        grant = {"principals": [ACCOUNT]}  # noqa: RUF012 - the suite's shape
        installation = INSTALLATION

    Seat.broker = broker  # type: ignore[attr-defined]
    with sshd(tmp_path / "sshd", authority, krl, more="ExposeAuthInfo yes\n") as server:
        made = Lab(Seat())  # type: ignore[arg-type]
        minted = [await made.issue() for _ in range(2)]
        sessions = [
            await asyncio.create_subprocess_exec(
                *("ssh", "-F", "/dev/null", "-T"),
                *server.identity(held.values, tmp_path / f"client-{number}"),
                *("127.0.0.1", "echo in; exec sleep 100"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
            )
            for number, (_, held) in enumerate(minted)
        ]
        try:
            for session in sessions:
                assert session.stdout is not None
                assert await session.stdout.readline() == b"in\n"
            await made.revoke(*minted[0])
            assert await sessions[0].wait() == 255
            assert sessions[1].returncode is None, "the other's session goes on"
        finally:
            for session in sessions:
                if session.returncode is None:
                    session.kill()
                    await session.wait()


def test_the_pages_show_what_the_tests_servers_run_with(tmp_path: Path):
    server = Nginx(tmp_path, 1, Path("/etc/nginx/remit.pem"), Path("/etc/nginx/remit-crl.pem"))
    server.lay()
    run = {line.strip() for line in (tmp_path / "nginx.conf").read_text().splitlines()}
    assert shown("x509.md", "ssl_client_certificate") <= run
    host = Sshd(tmp_path / "sshd", 1, Path("/etc/ssh/remit.pub"), Path("/etc/ssh/remit.krl"))
    host.lay()
    said = (tmp_path / "sshd/sshd_config").read_text()
    run = set(said.replace(f"{tmp_path}/sshd/principals", "/etc/ssh/principals/%u").splitlines())
    assert shown("ssh.md", "TrustedUserCAKeys") <= run


def shown(page: str, first: str) -> set[str]:
    """Return the lines of the block of a page that begins with a word."""
    fences = re.findall(
        r"^```(\w*)\n(.*?)^```$", (PAGES / page).read_text(), re.MULTILINE | re.DOTALL
    )
    [block] = [text for kind, text in fences if not kind and text.startswith(first)]
    return set(block.splitlines())
