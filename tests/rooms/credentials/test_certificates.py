"""The book of serials, the lists, and what is told from what a table or a grant says."""

from __future__ import annotations

import asyncio
import itertools
import stat
import struct
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from certificate_house import INSTALLATION, surroundings
from cryptography import x509

from remit.credentials.brokers.ssh.broker import SshBroker
from remit.credentials.brokers.x509.broker import X509Broker
from remit.credentials.certificates.book import Book
from remit.credentials.certificates.issuing import Probe
from remit.credentials.certificates.krl import write_krl
from remit.credentials.certificates.publishing import ListOptions, Publisher, run_command
from remit.credentials.port import Broker
from remit.model.errors import BrokerError, ConfigError, NotMintedError
from remit.model.lease import LeaseState
from remit.testing.broker_suite import Lab

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Hands:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


class Seat:
    """What the suite's Lab asks of a target."""

    installation = INSTALLATION
    names_are_ours = True

    def __init__(self, broker: Broker, **grant: Any) -> None:
        self.broker = broker
        self.grant = grant


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "lists").mkdir()
    return tmp_path


def ssh(folder: Path, clock: Any = None, **options: Any) -> SshBroker:
    return SshBroker("hosts", options, surroundings(folder, clock))


def mesh(folder: Path, clock: Any = None, **options: Any) -> X509Broker:
    return X509Broker("mesh", options, surroundings(folder, clock))


def lab(broker: Broker, **grant: Any) -> Lab:
    if isinstance(broker, SshBroker):
        grant = {"principals": ["deploy"], **grant}
    return Lab(Seat(broker, **grant))  # type: ignore[arg-type]


# --- the book -----------------------------------------------------------------------------------


def seconds(after: float = 0) -> int:
    return int(NOW.timestamp() + after)


def test_a_book_read_again_holds_what_was_written(tmp_path: Path):
    book = Book(tmp_path / "book", Hands())
    book.mint("a", 1, seconds(60))
    book.mint("b", 2**64 - 1, seconds(60))
    book.revoke("b", 2**64 - 1, seconds(60))
    book.revoke("never", 3, seconds(60))
    again = Book(tmp_path / "book", Hands())
    assert again.revoked() == (3, 2**64 - 1)
    assert again.alive() == {"a"}


def test_a_torn_last_line_is_forgotten_and_written_over(tmp_path: Path):
    book = Book(tmp_path / "book", Hands())
    book.revoke("a", 1, seconds(60))
    with (tmp_path / "book").open("ab") as file:
        file.write(b'{"event":"minted","handle":"b","se')
    again = Book(tmp_path / "book", Hands())
    assert again.alive() == frozenset()
    again.revoke("c", 3, seconds(60))
    assert Book(tmp_path / "book", Hands()).revoked() == (1, 3)


def test_what_a_failed_write_left_is_cut_off_by_the_next(tmp_path: Path):
    book = Book(tmp_path / "book", Hands())
    book.revoke("a", 1, seconds(60))
    with (tmp_path / "book").open("ab") as file:
        file.write(b'{"event":"revoked","ha')  # the disk was full here
    book.revoke("c", 3, seconds(60))
    assert Book(tmp_path / "book", Hands()).revoked() == (1, 3)


@pytest.mark.parametrize("line", [b"{}", b"\x00", b"", b'{"event":"forgotten"}', b"[]"])
def test_a_damaged_book_is_not_taken_for_an_empty_one(tmp_path: Path, line: bytes):
    Book(tmp_path / "book", Hands()).revoke("a", 1, seconds(60))
    whole = (tmp_path / "book").read_bytes()
    (tmp_path / "book").write_bytes(line + b"\n" + whole)
    with pytest.raises(ConfigError, match="restore it from a backup"):
        Book(tmp_path / "book", Hands())


def test_a_serial_stays_listed_an_hour_beyond_its_certificate_and_then_goes(tmp_path: Path):
    clock = Hands()
    book = Book(tmp_path / "book", clock)
    book.revoke("a", 1, seconds(60))
    clock.now = NOW + timedelta(seconds=60 + 3599)
    assert book.revoked() == (1,)
    clock.now = NOW + timedelta(seconds=60 + 3601)
    assert book.revoked() == ()
    assert Book(tmp_path / "book", clock).get("a") is None


def test_many_lines_are_written_together_again(tmp_path: Path):
    clock = Hands()
    book = Book(tmp_path / "book", clock)
    for number in range(600):
        clock.now = NOW + timedelta(hours=2 * number)
        book.mint(f"h{number}", number + 1, int(clock.now.timestamp()) + 60)
        book.revoke(f"h{number}", number + 1, int(clock.now.timestamp()) + 60)
    assert len((tmp_path / "book").read_bytes().splitlines()) < 400
    assert book.revoked() == (600,)


def test_what_is_newer_stays_newer_when_it_is_read_again(tmp_path: Path):
    book = Book(tmp_path / "book", Hands())
    for handle in ("a", "b", "c"):
        book.mint(handle, ord(handle), seconds(60))
    for handle in ("c", "a", "b", "a"):
        book.revoke(handle, ord(handle), seconds(60))
    for _ in range(2):
        book = Book(tmp_path / "book", Hands())
        places = {handle: book.revoke(handle, ord(handle), seconds(60)) for handle in "abc"}
        assert sorted(places, key=lambda handle: places[handle]) == ["c", "a", "b"]


def test_what_was_revoked_is_never_signed(tmp_path: Path):
    book = Book(tmp_path / "book", Hands())
    book.revoke("a", 1, seconds(60))
    with pytest.raises(NotMintedError):
        book.mint("a", 1, seconds(60))


async def test_a_revocation_before_the_mint_wins(folder: Path):
    for broker in (ssh(folder), mesh(folder)):
        made = lab(broker)
        order = made.order()
        await broker.revoke(order.lease.moved(LeaseState.SETTLING), None)
        with pytest.raises(NotMintedError, match="revoked before"):
            await broker.issue(order)


async def test_a_disk_that_is_full_signs_nothing(folder: Path):
    broker = ssh(folder)
    (folder / "state/brokers/hosts.book").unlink()
    with pytest.raises(NotMintedError, match="cannot be written"):
        await lab(broker).issue()


# --- serials and lists --------------------------------------------------------------------------


def test_serials_follow_from_handles_and_fit_their_fields(folder: Path):
    hosts, services = ssh(folder), mesh(folder)
    handles = [f"remit-5e111e57-{number:020x}" for number in range(500)]
    for broker, bits in ((hosts, 64), (services, 128)):
        serials = {broker.serial(handle) for handle in handles}
        assert len(serials) == len(handles)
        assert all(0 < serial < 2 ** (bits - 1) for serial in serials)
    assert hosts.serial(handles[0]) == ssh(folder).serial(handles[0])


def test_a_list_is_written_as_openssh_describes_it():
    data = write_krl(b"CA", [7, 2**64 - 1, 7], version=3, made=4, comment="c")
    head = b"SSHKRL\n\0" + struct.pack(">IQQQ", 1, 3, 4, 0) + bytes(4) + b"\0\0\0\1c"
    serials = struct.pack(">QQ", 7, 2**64 - 1)
    section = b"\0\0\0\2CA" + bytes(4) + b"\x20" + struct.pack(">I", len(serials)) + serials
    assert data == head + b"\1" + struct.pack(">I", len(section)) + section
    assert write_krl(b"CA", [], version=3, made=4, comment="c") == head


async def test_two_revocations_at_once_are_both_on_the_list(folder: Path):
    broker = mesh(folder, crl={"file": "lists/l.pem"})
    made = lab(broker)
    minted = [await made.issue() for _ in range(8)]
    await asyncio.gather(*(made.revoke(*each) for each in minted))
    listed = x509.load_pem_x509_crl((folder / "lists/l.pem").read_bytes())
    assert {each.serial_number for each in listed} == {
        broker.serial(lease.handle) for lease, _ in minted
    }


def test_a_list_is_there_from_the_start_and_readable_by_the_server(folder: Path):
    ssh(folder, krl={"file": "lists/l.krl"})
    assert (folder / "lists/l.krl").read_bytes().startswith(b"SSHKRL\n\0")
    assert stat.S_IMODE((folder / "lists/l.krl").stat().st_mode) == 0o644


async def test_callers_who_wait_together_share_one_list(folder: Path):
    made = itertools.count()
    publisher = Publisher(
        ListOptions(file="l"), folder / "l", lambda: str(next(made)).encode(), stale_after=None
    )
    await asyncio.gather(*(publisher.publish() for _ in range(10)))
    assert (folder / "l").read_bytes() == b"1"


async def test_a_command_that_fails_hangs_or_is_not_there_is_said_without_its_words(tmp_path: Path):
    for command, why in (
        (["sh", "-c", "echo s3cret >&2; exit 3"], "`sh` ended with 3"),
        (["sh", "-c", "sleep 60"], "`sh` took longer than 0.2 seconds"),
        ([str(tmp_path / "none")], "`none` cannot be started"),
    ):
        with pytest.raises(BrokerError) as caught:
            await run_command(command, b"x" * 1_000_000, 0.2)
        assert why in str(caught.value)
        assert "s3cret" not in str(caught.value)


async def test_a_command_that_is_given_up_takes_its_children_along(tmp_path: Path):
    script = f"(sleep 60 & echo $! > {tmp_path}/pid; wait); :"
    with pytest.raises(BrokerError):
        await run_command(["sh", "-c", script], b"", 1)
    child = int((tmp_path / "pid").read_text())
    while runs(child):  # noqa: ASYNC110 - a killed process is gone once the kernel got to it
        await asyncio.sleep(0.01)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


async def test_a_command_sees_no_secret_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REMIT_ADMIN_PASSWORD", "s3cret-of-ours")
    await run_command(["sh", "-c", f"env > {tmp_path}/env"], b"", 5, {"REMIT_SERIAL": "7"})
    said = (tmp_path / "env").read_text()
    assert "REMIT_SERIAL=7" in said
    assert "s3cret-of-ours" not in said


async def test_without_a_list_it_lives_until_it_expires_and_that_is_said(folder: Path):
    clock = Hands()
    clock.now = datetime.now(UTC)
    for broker in (ssh(folder, clock), mesh(folder, clock)):
        clock.now = datetime.now(UTC)
        made = lab(broker)
        lease, held = await made.issue()
        answer = await made.revoke(lease, held)
        assert (answer.confirmed, answer.until) == (False, held.expires_at)
        assert lease.handle in (await broker.census([])).alive, "nobody can take it back"
        clock.now += timedelta(minutes=10)
        answer = await made.revoke(lease, held)
        assert (answer.confirmed, answer.until) == (False, None)
        assert not (await broker.census([])).alive


# --- tables and grants --------------------------------------------------------------------------

PROBE = {"host": "h", "user": "u", "known_hosts_file": "k"}
HTTPS = {"url": "https://x.example/", "ca_file": "c"}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"no-such-key": 1}, "no-such-key"),
        ({"krl": {}}, "wants `file`, `command`"),
        ({"krl": {"fil": "x"}}, "fil"),
        ({"krl": {"file": 1}}, "krl.file"),
        ({"krl": {"file": "l", "seconds": 0}}, "seconds"),
        ({"probe": PROBE}, "want `krl`"),
        ({"terminate": ["true"]}, "want `krl`"),
        ({"krl": {"file": "l"}, "probe": {**PROBE, "host": "-oProxyCommand=id"}}, "probe.host"),
        ({"krl": {"file": "l"}, "probe": {**PROBE, "user": "-oProxyCommand=id"}}, "principals"),
        ({"krl": {"file": "l"}, "probe": {**PROBE, "user": "a b"}}, "no name"),
        ({"krl": {"file": "l"}, "probe": {"host": "h", "user": "u"}}, "known_hosts_file"),
        ({"max_seconds": 0}, "max_seconds"),
        ({"ca_key_file": "missing"}, "cannot be read"),
    ],
)
def test_an_ssh_table_that_makes_no_sense_is_named(folder: Path, options: dict[str, Any], why: str):
    with pytest.raises(ConfigError) as caught:
        ssh(folder, **options)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"no-such-key": 1}, "no-such-key"),
        ({"crl": {}}, "wants `file`, `command`"),
        ({"crl": {"file": "l", "valid_days": 0}}, "valid_days"),
        ({"probe": HTTPS}, "wants `crl`"),
        ({"crl": {"file": "l"}, "probe": {**HTTPS, "url": "http://x.example/"}}, "https://"),
        ({"crl": {"file": "l"}, "probe": {**HTTPS, "url": "https://u:p@x.example/"}}, "https://"),
        ({"crl": {"file": "l"}, "probe": {**HTTPS, "url": "https://x\r\nX: y"}}, "https://"),
        ({"crl": {"file": "l"}, "probe": {**HTTPS, "url": "https://x:99999/"}}, "https://"),
        ({"crl": {"file": "l"}, "probe": {**HTTPS, "common_name": "a,CN=b"}}, "no name"),
        ({"crl": {"file": "l"}, "probe": {**HTTPS, "uri": "spiffe://x/\n"}}, "probe.uri"),
        ({"ca_key_file": "k"}, "go together"),
        ({"ca_key_file": "k", "ca_cert_file": "c"}, "cannot be read"),
    ],
)
def test_an_x509_table_that_makes_no_sense_is_named(
    folder: Path, options: dict[str, Any], why: str
):
    with pytest.raises(ConfigError) as caught:
        mesh(folder, **options)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


NAMES = [
    "",
    " ",
    "a b\n",
    "-oProxyCommand=id",
    "a,b",
    "root\0",
    "ro\u043et",
    "a" * 65,
    "*",
    "a\nb",
    "`",
]


@pytest.mark.parametrize("name", [*NAMES, "a b", '"; drop'])
async def test_a_principal_that_could_be_read_in_two_ways_is_refused(folder: Path, name: str):
    broker = ssh(folder)
    with pytest.raises(ConfigError, match="principals"):
        broker.check({"principals": ["deploy", name]})
    with pytest.raises(NotMintedError, match="principals"):
        await lab(broker, principals=[name]).issue()
    assert not (await broker.census([])).alive


@pytest.mark.parametrize("name", [*NAMES, "a=b", "a+b", "CN=x", "a/b", '"; drop', "a "])
@pytest.mark.parametrize("key", ["common_name", "organization"])
async def test_a_name_that_could_be_read_in_two_ways_is_refused(folder: Path, key: str, name: str):
    broker = mesh(folder)
    value = name if key == "common_name" else [name]
    with pytest.raises(ConfigError, match=key):
        broker.check({key: value})
    with pytest.raises(NotMintedError, match=key):
        await lab(broker, **{key: value}).issue()


@pytest.mark.parametrize(
    "grant",
    [
        {},
        {"principals": []},
        {"principals": "root"},
        {"principals": ["a"] * 33},
        {"principals": [7]},
        {"principals": ["a"], "extensions": ["permit-everything"]},
        {"principals": ["a"], "source_address": ["everywhere"]},
        {"principals": ["a"], "source_address": ["10.0.0.1/8"]},
        {"principals": ["a"], "source_address": ["10.0.0.0/8,0.0.0.0/0"]},
        {"principals": ["a"], "force_command": ""},
        {"principals": ["a"], "force_command": " "},
        {"principals": ["a"], "force_command": []},
        {"principals": ["a"], "force_command": "a\nb"},
        {"principals": ["a"], "force_command": ["a", "b\0"]},
        {"principals": ["a"], "force_command": ["a" * 5000]},
        {"principals": ["a"], "force_command": "git-upload-pack {args.repo}"},
        {"principals": ["a"], "force-command": "true"},
    ],
)
async def test_a_grant_of_ssh_that_makes_no_sense_is_refused(folder: Path, grant: dict[str, Any]):
    broker = ssh(folder)
    with pytest.raises(ConfigError):
        broker.check(grant)
    seat = Seat(broker, **grant)
    with pytest.raises(NotMintedError):
        await Lab(seat).issue()  # type: ignore[arg-type]


def test_a_reference_is_left_for_the_call_to_fill(folder: Path):
    ssh(folder).check({"principals": ["{args.user}"], "force_command": ["run", "{args.what}"]})
    mesh(folder).check({"common_name": "{task.on_behalf_of}"})


async def test_a_lease_with_no_whole_second_left_is_not_signed(folder: Path):
    for broker in (ssh(folder), mesh(folder)):
        made = lab(broker)
        made.seconds = 0
        with pytest.raises(NotMintedError, match="second left"):
            await made.issue()


async def test_nothing_outlives_the_brokers_own_bound(folder: Path):
    for broker in (ssh(folder, max_seconds=30), mesh(folder, max_seconds=30)):
        lease, held = await lab(broker).issue()
        assert held.expires_at is not None
        assert held.expires_at <= datetime.now(UTC) + timedelta(seconds=30)
        assert held.expires_at < lease.reserved_at + timedelta(seconds=32)


# --- the authority's key ------------------------------------------------------------------------


def test_an_authority_is_made_once_and_kept_to_its_owner(folder: Path):
    ssh(folder)
    mesh(folder)
    own = folder / "state/brokers"
    before = {path.name: path.read_bytes() for path in own.iterdir()}
    for name in ("hosts.key", "mesh.key", "hosts.book", "mesh.book"):
        assert stat.S_IMODE((own / name).stat().st_mode) == 0o600
    ssh(folder)
    mesh(folder)
    assert {path.name: path.read_bytes() for path in own.iterdir()} == before


@pytest.mark.parametrize("make", [ssh, mesh])
def test_a_key_that_others_may_read_is_refused(folder: Path, make: Any):
    make(folder)
    for key in (folder / "state/brokers").glob("*.key"):
        key.chmod(0o640)
    with pytest.raises(ConfigError, match="mode 0640"):
        make(folder)


def test_keys_of_another_authority_are_not_mixed(folder: Path):
    X509Broker("one", {}, surroundings(folder))
    X509Broker("two", {}, surroundings(folder))
    options = {
        "ca_key_file": "state/brokers/one.key",
        "ca_cert_file": "state/brokers/two.pem",
    }
    with pytest.raises(ConfigError, match="another key"):
        mesh(folder, **options)
    right = {**options, "ca_cert_file": "state/brokers/one.pem"}
    assert mesh(folder, **right)._authority.may_sign_lists


@pytest.mark.parametrize("text", ["", "no key", "-----BEGIN OPENSSH PRIVATE KEY-----\n"])
def test_a_file_that_is_no_key_is_named_and_not_quoted(folder: Path, text: str):
    (folder / "ca").touch(mode=0o600)
    (folder / "ca").write_text(text)
    with pytest.raises(ConfigError, match="ca_key_file") as caught:
        ssh(folder, ca_key_file="ca")
    assert "no key" not in str(caught.value)


@pytest.mark.parametrize("make", [ssh, mesh])
async def test_a_key_taken_out_of_its_frame_is_seen_too(folder: Path, make: Any):
    _, held = await lab(make(folder)).issue()
    body = held.values["private_key"].splitlines()[1:-1]
    told = [line for line in body if line in held.secrets]
    assert len(told) >= len(body) - 2
    _, other = await lab(make(folder)).issue()
    assert not set(held.secrets) & set(other.secrets), "what is told is this key's alone"


# --- asking the target --------------------------------------------------------------------------


class Asked(Probe):
    """A target that reads the list of a broker's book when it is told to."""

    seconds = 0.2

    def __init__(self) -> None:
        self.listed: tuple[int, ...] = ()
        self.questions: list[int] = []
        self.said: list[bool] = []
        self.open = asyncio.Event()
        self.open.set()
        self.there = True

    async def reach(self) -> None:
        if not self.there:
            raise BrokerError("it is down")

    async def accepts(self, serial: int, until: int) -> bool:
        self.questions.append(serial)
        await self.reach()
        await self.open.wait()
        if self.listed and self.said:
            return self.said.pop(0)
        return serial not in self.listed


class Plain(SshBroker):
    """The broker `ssh` with a target of ours in the place of a host."""

    def __init__(self, folder: Path, target: Asked) -> None:
        self.target = target
        self.reads = True
        self.arrived = self.expected = 0
        super().__init__("hosts", {"krl": {"file": "lists/l.krl"}}, surroundings(folder))
        self._house = replace(self._house, probe=target)

    async def _confirm(self, probe: Probe, serial: int, place: int) -> None:
        self.arrived += 1
        if self.arrived >= self.expected:
            self.target.open.set()
        await super()._confirm(probe, serial, place)

    def _list(self) -> bytes:
        if self.reads:
            self.target.listed = self._book.revoked()
        return super()._list()


async def test_many_that_wait_ask_about_the_newest_and_all_are_confirmed(folder: Path):
    target = Asked()
    broker = Plain(folder, target)
    made = lab(broker)
    minted = [await made.issue() for _ in range(20)]
    target.open.clear()
    target.questions.clear()
    broker.expected = len(minted)
    answers = await asyncio.gather(*(made.revoke(*each) for each in minted))
    assert all(answer.confirmed for answer in answers)
    assert len(target.questions) == 2, "one by the first, one for all who came meanwhile"
    newest = max(minted, key=lambda each: broker._book.get(each[0].handle).place)  # type: ignore[union-attr]
    assert target.questions[-1] == broker.serial(newest[0].handle)


async def test_a_target_that_stops_reading_confirms_nothing_for_anybody(folder: Path):
    target = Asked()
    broker = Plain(folder, target)
    made = lab(broker)
    minted = [await made.issue() for _ in range(5)]
    broker.reads = False
    answers = await asyncio.gather(*(made.revoke(*each) for each in minted), return_exceptions=True)
    assert all("see that it reads the list" in str(answer) for answer in answers), answers
    broker.reads = True
    for each in minted:
        assert (await made.revoke(*each)).confirmed


async def test_a_refusal_that_does_not_stand_is_not_believed(folder: Path):
    target = Asked()
    broker = Plain(folder, target)
    made = lab(broker)
    lease, held = await made.issue()
    # A server that reloads: its new self refuses, then its old one takes it, once more each.
    target.said = [False, True, False, True]
    target.settle_seconds = 0.15
    target.seconds = 30
    target.questions.clear()
    assert (await made.revoke(lease, held)).confirmed
    assert target.said == []
    assert len(target.questions) >= 6, "it was asked until a refusal was followed by another"


async def test_a_target_that_comes_back_is_asked_again(folder: Path):
    target = Asked()
    broker = Plain(folder, target)
    made = lab(broker)
    lease, held = await made.issue()
    target.there = False
    with pytest.raises(BrokerError):
        await made.revoke(lease, held)
    with pytest.raises(NotMintedError):
        await made.issue()
    with pytest.raises(BrokerError):
        await broker.census([])
    target.there = True
    assert (await made.revoke(lease, held)).confirmed


@pytest.mark.parametrize("died", ["before signing", "after signing", "before listing", "listed"])
async def test_whatever_a_crash_left_the_row_alone_ends_it(folder: Path, died: str):
    target = Asked()
    broker = Plain(folder, target)
    made = lab(broker)
    order = made.order()
    if died == "before signing":
        serial, expires = broker.serial(order.lease.handle), order.lease.expires_at
        broker._book.mint(order.lease.handle, serial, int(expires.timestamp()))
    else:
        await broker.issue(order)
    if died == "before listing":
        (folder / "lists").rename(folder / "away")
        with pytest.raises(BrokerError):
            await broker.revoke(order.lease, None)
        (folder / "away").rename(folder / "lists")
    if died == "listed":
        await broker.revoke(order.lease, None)
    again = Plain(folder, Asked())
    assert (await again.revoke(order.lease, None)).confirmed
    assert again.serial(order.lease.handle) in again.target.listed
    assert not (await again.census([])).alive


async def test_a_revocation_before_a_crash_is_on_the_first_list_after_it(folder: Path):
    broker = Plain(folder, Asked())
    made = lab(broker)
    lease, held = await made.issue()
    (folder / "lists").rename(folder / "away")
    with pytest.raises(BrokerError):
        await made.revoke(lease, held)
    (folder / "away").rename(folder / "lists")
    again = Plain(folder, Asked())
    await lab(again).issue()
    assert again.serial(lease.handle) in again.target.listed, "before anybody asks for it again"
