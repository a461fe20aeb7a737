"""The broker `ssh` against a real sshd and the real client."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from certificate_house import INSTALLATION, page_script, surroundings
from openssh import ACCOUNT, USER, Sshd, keygen, sshd
from processes import free_port

from remit.credentials.brokers.ssh.broker import SshBroker
from remit.model.errors import NotMintedError
from remit.model.lease import Credential, LeaseState
from remit.testing.broker_suite import BrokerSuite, Lab

pytestmark = pytest.mark.real
_folders = itertools.count()


def table(server_port: int, **changes: Any) -> dict[str, Any]:
    """Return a broker's table with a list that sshd reads, and a probe."""
    probe = {
        "host": "127.0.0.1",
        "port": server_port,
        "user": USER,
        "known_hosts_file": "sshd/known_hosts",
    }
    return {"krl": {"file": "lists/revoked.krl"}, "probe": probe, **changes}


class Host:
    """The suite's view of one server."""

    grant: Mapping[str, Any] = {"principals": [ACCOUNT]}
    installation = INSTALLATION
    names_are_ours = True

    def __init__(self, folder: Path, server: Sshd, broker: SshBroker) -> None:
        self.folder = folder
        self.server = server
        self.broker = broker

    async def login(self, credential: Credential, *command: str, **more: Any) -> tuple[int, str]:
        own = self.folder / f"client-{next(_folders)}"
        done = await asyncio.to_thread(
            self.server.login, credential.values, *command, folder=own, **more
        )
        return done.returncode, done.stdout + done.stderr

    async def accepts(self, credential: Credential) -> bool:
        code, said = await self.login(credential, "echo", "in")
        if code == 0:
            assert said == "in\n"
            return True
        assert "Permission denied (publickey)" in said, said
        return False

    async def down(self) -> None:
        await asyncio.to_thread(self.server.stop)

    async def up(self) -> None:
        await asyncio.to_thread(self.server.start)

    async def expire(self, credential: Credential) -> None:
        while await self.accepts(credential):  # noqa: ASYNC110 - the server's clock alone ends it
            await asyncio.sleep(0.2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "lists").mkdir()
    return tmp_path


@pytest.fixture
def target(folder: Path) -> Iterator[Host]:
    port = free_port()
    # sshd wants the authority's public key, and the broker the server's host key: each is a file.
    broker = SshBroker("hosts", table(port), surroundings(folder))
    authority = folder / "state/brokers/hosts.pub"
    with sshd(folder / "sshd", authority, folder / "lists/revoked.krl", port=port) as server:
        yield Host(folder, server, broker)


class TestListedAndAsked(BrokerSuite):
    """With a list that sshd reads, and a probe that asks it."""

    @pytest.fixture
    def target(self, target: Host) -> Host:
        return target


class TestListed(BrokerSuite):
    """With a list alone: it ends at once, and nobody confirms it."""

    @pytest.fixture
    def target(self, folder: Path) -> Iterator[Host]:
        broker = SshBroker("hosts", {"krl": {"file": "lists/revoked.krl"}}, surroundings(folder))
        authority = folder / "state/brokers/hosts.pub"
        with sshd(folder / "sshd", authority, folder / "lists/revoked.krl") as server:
            yield _Movable(folder, server, broker)


class _Movable(Host):
    async def down(self) -> None:
        (self.folder / "lists").rename(self.folder / "away")

    async def up(self) -> None:
        (self.folder / "away").rename(self.folder / "lists")


class TestExpiring(BrokerSuite):
    """Without a list it runs out, and says so."""

    @pytest.fixture
    def target(self, folder: Path) -> Iterator[Host]:
        broker = SshBroker("hosts", {"max_seconds": 6}, surroundings(folder))
        with sshd(folder / "sshd", folder / "state/brokers/hosts.pub", None) as server:
            yield Host(folder, server, broker)


def lab(target: Host, **grant: Any) -> Lab:
    target.grant = {"principals": [ACCOUNT], **grant}
    return Lab(target)


async def test_sshd_answers_the_rehearsal_before_anything_is_signed(target: Host):
    await lab(target).issue()
    log = (target.folder / "sshd/log").read_text()
    assert log.count("Accepted publickey") == 1
    assert "revoked by file" in log
    assert "-rehearsal-" not in log, "the probe's key id is its own"


async def test_a_server_that_does_not_read_the_list_gets_no_certificate(folder: Path):
    port = free_port()
    broker = SshBroker("hosts", table(port), surroundings(folder))
    authority = folder / "state/brokers/hosts.pub"
    with (
        sshd(folder / "sshd", authority, None, port=port) as server,
        pytest.raises(NotMintedError, match="see that it reads the list"),
    ):
        await Lab(Host(folder, server, broker)).issue()


async def test_a_server_that_trusts_another_authority_gets_no_certificate(folder: Path):
    port = free_port()
    broker = SshBroker("hosts", table(port), surroundings(folder))
    keygen("-q", "-t", "ed25519", "-N", "", "-f", folder / "other")
    krl = folder / "lists/revoked.krl"
    with (
        sshd(folder / "sshd", folder / "other.pub", krl, port=port) as server,
        pytest.raises(NotMintedError, match="which authority the target trusts"),
    ):
        await Lab(Host(folder, server, broker)).issue()


async def test_nothing_is_allowed_that_was_not_granted(target: Host):
    _, held = await lab(target).issue()
    code, said = await target.login(held, "tty", options=("-tt",))
    assert code != 0
    assert "not a tty" in said or "PTY allocation request failed" in said
    code, said = await target.login(held, options=("-W", f"127.0.0.1:{target.server.port}"))
    assert "administratively prohibited" in said
    options = ("-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1")
    code, said = await target.login(held, "true", options=options)
    assert code == 255
    assert "remote port forwarding failed" in said
    code, said = await target.login(held, "echo", "$SSH_AUTH_SOCK.", options=("-A",))
    assert said == ".\n"


async def test_an_extension_that_was_granted_is_there(target: Host):
    _, held = await lab(target, extensions=["permit-pty"]).issue()
    code, said = await target.login(held, "tty", options=("-tt",))
    assert (code, "/dev/pts/" in said) == (0, True)


async def test_the_forced_command_is_all_that_runs(target: Host):
    words = ["printf", "%s|", "a b", "$(id)", "; touch owned", "'", "--", "*"]
    _, held = await lab(target, force_command=words).issue()
    code, said = await target.login(held, "touch", str(target.folder / "owned"))
    assert (code, said) == (0, "a b|$(id)|; touch owned|'|--|*|")
    assert not (target.folder / "owned").exists()


async def test_another_address_or_principal_is_refused_by_the_server(target: Host):
    _, held = await lab(target, source_address=["192.0.2.0/24"]).issue()
    assert not await target.accepts(held)
    _, held = await lab(target, source_address=["192.0.2.0/24", "127.0.0.1/32"]).issue()
    assert await target.accepts(held)
    target.grant = {"principals": ["somebody-else"]}
    _, held = await Lab(target).issue()
    assert not await target.accepts(held)


async def test_one_held_to_another_address_is_confirmed_by_its_serial_all_the_same(target: Host):
    made = lab(target, source_address=["192.0.2.0/24"], force_command="touch owned")
    lease, held = await made.issue()
    before = (target.folder / "sshd/log").read_text().count("revoked by file")
    answer = await made.revoke(lease, held)
    assert answer.confirmed
    assert (target.folder / "sshd/log").read_text().count("revoked by file") == before + 1


async def test_a_list_that_somebody_replaced_is_not_taken_for_ours(target: Host):
    made = lab(target)
    lease, held = await made.issue()
    await made.revoke(lease, held)
    assert not await target.accepts(held)
    (target.folder / "lists/revoked.krl").write_bytes(b"SSHKRL\n\0" + bytes(3) + b"\1" + bytes(32))
    assert await target.accepts(held), "the empty list is a valid one"
    await target.broker.census([])
    assert not await target.accepts(held), "the census put ours back"


async def test_the_list_survives_a_restart_and_keygen_reads_it(target: Host):
    made = lab(target)
    minted = [await made.issue() for _ in range(3)]
    await made.revoke(*minted[0])
    again = SshBroker("hosts", table(target.server.port), surroundings(target.folder))
    target.broker = again
    (target.folder / "lists/revoked.krl").unlink()
    await Lab(target).revoke(*minted[1])
    states = []
    for number, (_, held) in enumerate(minted):
        file = target.folder / f"asked-{number}.pub"
        file.write_text(held.values["certificate"])
        states.append(keygen("-Q", "-f", target.folder / "lists/revoked.krl", file).returncode)
    assert states == [1, 1, 0]
    assert (await again.census([])).alive == {minted[2][0].handle}
    assert [await target.accepts(held) for _, held in minted] == [False, False, True]


async def test_keygen_finds_in_the_certificate_what_was_ordered(target: Host):
    made = lab(target, force_command="true", source_address=["127.0.0.1"])
    lease, held = await made.issue()
    file = target.folder / "shown.pub"
    file.write_text(held.values["certificate"])
    shown = keygen("-L", "-f", file).stdout
    assert f'Key ID: "{lease.handle} {lease.task}"' in shown
    assert f"Serial: {target.broker.serial(lease.handle)}" in shown
    assert "Extensions: (none)" in shown
    assert "force-command true" in shown
    assert "source-address 127.0.0.1/32" in shown


async def test_the_list_can_go_to_a_command_instead(folder: Path):
    port = free_port()
    krl = folder / "lists/pushed.krl"
    script = f"cat > {krl}.new && mv {krl}.new {krl}"
    options = table(port, krl={"command": ["sh", "-c", script]})
    broker = SshBroker("hosts", options, surroundings(folder))
    with sshd(folder / "sshd", folder / "state/brokers/hosts.pub", krl, port=port) as server:
        target = Host(folder, server, broker)
        made = Lab(target)
        lease, held = await made.issue()
        assert await target.accepts(held)
        assert (await made.revoke(lease, held)).confirmed
        assert not await target.accepts(held)


async def test_files_of_a_key_are_there_for_the_lease_alone(folder: Path):
    (folder / "keys").mkdir(mode=0o700)
    options = {"krl": {"file": "lists/revoked.krl"}, "key_folder": "keys"}
    broker = SshBroker("hosts", options, surroundings(folder))
    authority = folder / "state/brokers/hosts.pub"
    with sshd(folder / "sshd", authority, folder / "lists/revoked.krl") as server:
        target = Host(folder, server, broker)
        made = Lab(target)
        lease, held = await made.issue()
        key, certificate = (
            Path(held.values[name]) for name in ("private_key_file", "certificate_file")
        )
        assert key.stat().st_mode & 0o777 == 0o600
        assert key.parent.stat().st_mode & 0o777 == 0o700
        assert certificate == key.with_name("id-cert.pub"), "ssh finds it by itself"
        done = await asyncio.create_subprocess_exec(
            *("ssh", "-F", "/dev/null", "-n", "-i", key, "-o", "IdentitiesOnly=yes"),
            *("-o", f"UserKnownHostsFile={server.known_hosts}", "-p", str(server.port)),
            *("-l", USER, "127.0.0.1", "true"),
        )
        assert await done.wait() == 0
        await made.revoke(lease.moved(LeaseState.SETTLING), None)
        assert list((folder / "keys").iterdir()) == []


async def test_a_pushed_list_that_is_older_or_broken_off_undoes_nothing(folder: Path):
    """The push of a Remit that was killed arrives after the next run's, with less on it."""
    krl, sent = folder / "lists/pushed.krl", folder / "sent"
    taker = page_script("ssh.md", "take-remit-list", folder)
    push = {"command": ["sh", "-c", f"tee {sent} | {taker} {krl}"]}

    def run() -> SshBroker:
        return SshBroker("hosts", {"krl": push}, surroundings(folder))

    first = run()
    with sshd(folder / "sshd", folder / "state/brokers/hosts.pub", krl) as server:
        made = Lab(target := Host(folder, server, first))
        one, other, third = [await made.issue() for _ in range(3)]
        await made.revoke(*one)
        late = sent.read_bytes()
        assert await target.accepts(other[1])
        target.broker = run()  # the next one, after a kill
        await made.revoke(*other)
        for data in (late, sent.read_bytes()[:-20], b""):
            done = await asyncio.create_subprocess_exec(taker, krl, stdin=asyncio.subprocess.PIPE)
            await done.communicate(data)
            assert done.returncode == 1
        assert not await target.accepts(one[1])
        assert not await target.accepts(other[1])
        assert await target.accepts(third[1])
        assert sorted(each.name for each in krl.parent.iterdir()) == [krl.name, f"{krl.name}.lock"]
