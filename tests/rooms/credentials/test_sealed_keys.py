"""Sealed keys: encrypted at rest, opened for one call, named as what they are: standing."""

from __future__ import annotations

import asyncio
import contextlib
import stat
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from remit.credentials.brokers.sealed.broker import SealedBroker
from remit.credentials.census import verify_none
from remit.credentials.port import Surroundings
from remit.credentials.sealed_keys import SealedKeys
from remit.credentials.sealing import KeySeal
from remit.model.errors import (
    ConfigError,
    ConflictError,
    EvidenceError,
    InputError,
    NotFoundError,
    NotMintedError,
)
from remit.model.lease import Credential
from remit.model.record import Context, Step
from remit.testing.broker_suite import BrokerSuite, Lab
from remit.testing.credentials import MemoryLeases

SECRET = "sk-live-0123456789abcdef"
OTHER = "sk-live-fedcba9876543210"
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


class Recorded:
    """Keeps what was recorded; ``down`` is a log that cannot be written."""

    epoch = 0

    def __init__(self) -> None:
        self.steps: list[tuple[Step, Context]] = []
        self.durable = 0
        self.down = False

    def stage(self, step: Step, context: Context) -> str:
        self.steps.append((step, context))
        return f"rec_{len(self.steps)}"

    async def barrier(self) -> None:
        if self.down:
            raise EvidenceError("the disk is full")
        self.durable = len(self.steps)

    @property
    def kinds(self) -> list[str]:
        return [step.kind for step, _ in self.steps]


class House:
    """A drawer, its folder and a clock that a test moves."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.recorder, self.now = folder / "sealed", Recorded(), NOW
        self.keys = self.opened()

    def opened(self, key: bytes = bytes(32)) -> SealedKeys:
        return SealedKeys(
            folder=self.folder,
            seal=KeySeal(key),
            recorder=self.recorder,
            clock=lambda: self.now,
        )

    def broker(self, **options: Any) -> SealedBroker:
        surroundings = Surroundings(
            http=None,  # type: ignore[arg-type]
            clock=lambda: self.now,
            signer=None,  # type: ignore[arg-type]
            installation="remit-0a1b2c3d",
            state=self.folder.parent,
            path=Path,
            sealed=self.keys,
        )
        return SealedBroker("old", options, surroundings)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


class Service:
    """A service that knows one key, and nothing of leases."""

    grant: Mapping[str, Any] = {"key": "crm"}
    installation = "remit-0a1b2c3d"
    names_are_ours = False

    def __init__(self, house: House) -> None:
        self.broker = house.broker()
        self.broker.check(self.grant)

    async def accepts(self, credential: Credential) -> bool:
        return credential.values["key"] == SECRET

    async def down(self) -> None: ...

    async def up(self) -> None: ...

    async def expire(self, credential: Credential) -> None:
        raise AssertionError("it does not expire")


class TestSealed(BrokerSuite):
    @pytest.fixture
    async def target(self, house: House) -> Service:
        await house.keys.seal("crm", SECRET, "user:ada")
        return Service(house)


async def test_a_key_lies_encrypted_and_its_owner_alone_can_read_the_file(house: House):
    key = await house.keys.seal("crm", SECRET, "user:ada")
    (file,) = house.folder.iterdir()
    assert SECRET.encode() not in file.read_bytes()
    assert key.fingerprint.encode() not in file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(house.folder.stat().st_mode) == 0o700
    assert SECRET not in repr(key) + repr(house.keys) + repr(house.recorder.steps)


async def test_a_key_is_there_after_a_restart_with_when_it_was_used(house: House):
    await house.keys.seal("crm", SECRET, "user:ada")
    house.now += timedelta(hours=1)
    house.keys.open("crm", Lab(Service(house)).order().lease)
    (key,) = house.opened().keys
    assert (key.name, key.sealed_at, key.rotated_at) == ("crm", NOW, NOW)
    assert key.last_used == NOW + timedelta(hours=1)
    assert key == house.keys.get("crm")


async def test_the_fingerprint_is_salted(house: House):
    one = await house.keys.seal("one", SECRET, "user:ada")
    two = await house.keys.seal("two", SECRET, "user:ada")
    assert one.fingerprint != two.fingerprint


async def test_a_rotation_leaves_the_old_value_in_no_file(house: House):
    before = await house.keys.seal("crm", SECRET, "user:ada")
    house.now += timedelta(days=40)
    after = await house.keys.rotate("crm", OTHER, "user:grace")
    assert after.fingerprint != before.fingerprint
    assert (after.sealed_at, after.rotated_at) == (NOW, house.now)
    opened = [
        KeySeal(bytes(32)).open(f.read_bytes(), "sealed key crm") for f in house.folder.iterdir()
    ]
    assert len(opened) == 1
    assert OTHER in opened[0]
    assert SECRET not in opened[0]


async def test_a_rotation_to_the_present_value_is_none(house: House):
    await house.keys.seal("crm", SECRET, "user:ada")
    with pytest.raises(ConflictError, match="nothing was rotated"):
        await house.keys.rotate("crm", SECRET, "user:ada")
    assert house.recorder.kinds == ["credential.sealed"]


async def test_each_thing_that_happens_to_a_key_is_recorded_without_it(house: House):
    await house.keys.seal("crm", SECRET, "user:ada")
    await house.keys.rotate("crm", OTHER, "user:ada")
    lease = Lab(Service(house)).order().lease
    assert house.keys.open("crm", lease) == OTHER
    await house.keys.remove("crm", "user:ada")
    assert house.recorder.kinds == [
        "credential.sealed",
        "credential.rotated",
        "credential.opened",
        "credential.removed",
    ]
    step, context = house.recorder.steps[2]
    assert (context.task, context.call) == (lease.task, lease.call)
    assert step.body["lease"] == lease.id
    assert list(house.folder.iterdir()) == []
    assert house.keys.keys == ()
    said = repr(house.recorder.steps)
    assert SECRET not in said
    assert OTHER not in said


async def test_without_evidence_nothing_changes(house: House):
    await house.keys.seal("crm", SECRET, "user:ada")
    house.recorder.down = True
    for change in (
        house.keys.seal("new", SECRET, "user:ada"),
        house.keys.rotate("crm", OTHER, "user:ada"),
        house.keys.remove("crm", "user:ada"),
    ):
        with pytest.raises(EvidenceError):
            await change
    assert [each.name for each in house.keys.keys] == ["crm"]
    assert house.opened().open("crm", Lab(Service(house)).order().lease) == SECRET


async def test_a_disk_that_does_not_take_a_key_leaves_the_old_one_and_a_record(house: House):
    await house.keys.seal("crm", SECRET, "user:ada")
    (house.folder / "crm.new").mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        await house.keys.rotate("crm", OTHER, "user:ada")
    assert house.recorder.kinds[-1] == "credential.not_written"
    assert house.keys.open("crm", Lab(Service(house)).order().lease) == SECRET


async def test_of_many_who_seal_one_name_at_once_one_does(house: House):
    done = await asyncio.gather(
        *(house.keys.seal("crm", f"value-number-{n}", "user:ada") for n in range(8)),
        return_exceptions=True,
    )
    assert sum(not isinstance(each, ConflictError) for each in done) == 1
    assert house.recorder.kinds == ["credential.sealed"]


@contextlib.contextmanager
def altered(file: Path) -> Iterator[None]:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    yield


async def test_a_file_that_was_altered_moved_or_sealed_under_another_key_does_not_open(
    house: House,
):
    await house.keys.seal("crm", SECRET, "user:ada")
    await house.keys.seal("erp", OTHER, "user:ada")
    with pytest.raises(ConfigError, match=r"sealed\.key"):
        house.opened(b"\x01" * 32)
    lease = Lab(Service(house)).order().lease
    (house.folder / "crm").write_bytes((house.folder / "erp").read_bytes())
    with pytest.raises(ConfigError, match="crm"):
        house.keys.open("crm", lease)
    with altered(house.folder / "erp"), pytest.raises(ConfigError, match="erp"):
        house.keys.open("erp", lease)
    (house.folder / "erp").unlink()
    with pytest.raises(NotMintedError):
        await house.broker().issue(Lab(Service(house)).order(grant={"key": "erp"}))


@pytest.mark.parametrize(
    "name", ["", "../state", "a/b", "A", "ä", "a" * 64, "-x", ".hidden", "a.used", "a\n", "a\x00"]
)
async def test_what_is_no_name_is_refused(house: House, name: str):
    with pytest.raises(InputError):
        await house.keys.seal(name, SECRET, "user:ada")
    with pytest.raises(ConfigError):
        house.broker().check({"key": name})
    with pytest.raises(NotFoundError):
        await house.keys.rotate(name, SECRET, "user:ada")


@pytest.mark.parametrize(
    "secret", ["", "short", " " * 20, "x" * 20_000, "abcdefgh\x00", "\ud800" * 9]
)
async def test_what_is_no_key_is_refused_and_not_repeated(house: House, secret: str):
    with pytest.raises(InputError) as raised:
        await house.keys.seal("crm", secret, "user:ada")
    assert not secret.strip() or secret not in str(raised.value)
    assert house.recorder.steps == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_age_days": 0}, "max_age_days"),
        ({"max_age_days": float("nan")}, "max_age_days"),
        ({"max_age_days": 1e9}, "max_age_days"),
        ({"key": "sk-live"}, "key"),
        ({"refuse_aged": 1}, "refuse_aged"),
    ],
)
def test_options_that_make_no_sense_are_refused(house: House, options: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said) as raised:
        house.broker(**options)
    assert "[broker.old]" in str(raised.value)


@pytest.mark.parametrize(
    "grant", [{}, {"key": 1}, {"key": ["crm"]}, {"key": "{args.key}"}, {"key": "{task.template}"}]
)
def test_a_grant_names_one_key_and_no_argument_chooses_it(house: House, grant: dict[str, Any]):
    with pytest.raises(ConfigError):
        house.broker().check(grant)


async def test_a_key_is_opened_for_one_call_and_not_for_a_task(house: House):
    await house.keys.seal("crm", SECRET, "user:ada")
    lab = Lab(Service(house))
    with pytest.raises(NotMintedError, match="one call"):
        await lab.target.broker.issue(replace(lab.order(), call=None))
    assert "credential.opened" not in house.recorder.kinds


async def test_a_key_that_is_not_sealed_is_asked_for(house: House):
    with pytest.raises(NotMintedError, match="remit credential seal"):
        await house.broker().issue(Lab(Service(house)).order())


async def test_an_age_past_the_limit_is_a_finding_once_a_day_until_it_is_rotated(house: House):
    await house.keys.seal("crm", SECRET, "user:ada")
    house.broker(max_age_days=30).check({"key": "crm"})
    house.now += timedelta(days=30)
    house.keys.notice()
    assert house.keys.aged(house.now) == ()
    house.now += timedelta(seconds=1)
    for _ in range(3):
        house.keys.notice()
    assert house.recorder.kinds.count("credential.aged") == 1
    body = house.recorder.steps[-1][0].body
    assert (body["name"], body["age_days"], body["max_age_days"]) == ("crm", 30, "30.0")
    house.now += timedelta(days=1)
    house.keys.notice()
    assert house.recorder.kinds.count("credential.aged") == 2
    await house.keys.rotate("crm", OTHER, "user:ada")
    house.keys.notice()
    assert house.recorder.kinds[-1] == "credential.rotated"


async def test_an_aged_key_is_used_unless_the_operator_refuses_that(house: House):
    await house.keys.seal("crm", SECRET, "user:ada")
    house.now += timedelta(days=91)
    lab = Lab(Service(house))
    assert (await house.broker().issue(lab.order())).values == {"key": SECRET}
    with pytest.raises(NotMintedError, match="rotate it"):
        await house.broker(refuse_aged=True).issue(lab.order())
    await house.keys.rotate("crm", OTHER, "user:ada")
    assert (await house.broker(refuse_aged=True).issue(lab.order())).values == {"key": OTHER}


async def test_a_sealed_key_is_standing_privilege_and_the_check_says_so(house: House):
    broker = house.broker()
    broker.check({"key": "crm"})
    report = await verify_none({"old": broker}, MemoryLeases(), lambda _: True, NOW)
    assert report.none_stands
    await house.keys.seal("crm", SECRET, "user:ada")
    house.now += timedelta(days=3)
    report = await verify_none({"old": broker}, MemoryLeases(), lambda _: True, NOW)
    assert not report.none_stands
    (finding,) = report.findings
    assert "crm" in finding.handle
    assert "3 days" in finding.why
