"""The working tables, changed at rest by whoever can write the file: each way is found and named."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from pathlib import Path

import pytest
from world import World, standing

from remit.app.compose import compose
from remit.app.config import load
from remit.cli.main import status_of
from remit.identity.registry import Registry
from remit.model.errors import ApprovalRequiredError, ConfigError, ProofError
from remit.model.lease import Lease, LeaseScope, LeaseState
from remit.model.record import Context
from remit.model.subject import Person
from remit.storage.sqlite.journal import Journal
from remit.storage.sqlite.leases import SqliteLeases
from remit.storage.sqlite.state import look

BOSS = Person(id="user:boss", roles=frozenset({"manager"}), method="test")


def lease_of(task: str, state: LeaseState, world: World) -> Lease:
    now = world.authority.clock()
    return Lease(
        id="lease_1",
        task=task,
        call=None,
        broker="memory",
        target="desk",
        scope=LeaseScope.TASK,
        state=state,
        handle="remit-x",
        expires_at=now,
        reserved_at=now,
    )


async def test_doctor_says_of_a_stopped_authority_what_it_left_and_that_nobody_was_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = tmp_path / "remit.toml"

    def told() -> dict[str, tuple[bool | None, str]]:
        capsys.readouterr()
        status_of(["doctor", "--json", "--config", str(config)])
        checks = json.loads(capsys.readouterr().out)["checks"]
        return {each["what"]: (each["ok"], each["said"]) for each in checks}

    async with standing(tmp_path) as world:
        lease = lease_of(world.opened.task.id, LeaseState.ISSUED, world)
        SqliteLeases(world.house.journal).put(lease)
        world.authority.evidence.stage(lease.record(), Context(task=lease.task))
        await world.authority.evidence.barrier()
        assert "leases" not in await asyncio.to_thread(told), "it is in use"
    config.write_text(
        config.read_text() + '[broker.memory]\nkind = "jwt"\naudience = "https://x"\n'
    )
    checks = told()
    ok, said = checks["leases"]
    assert ok is None
    assert "1 at `desk` are not over" in said
    ok, said = checks["targets"]
    assert ok is None
    assert "nobody asked the targets of `memory`" in said
    assert status_of(["credential", "verify-none", "--config", str(config)]) == 3
    assert "only a running authority asks" in capsys.readouterr().err


@pytest.fixture
async def state(tmp_path: Path) -> Path:
    """A state folder that did some work: ``old`` beside it is a copy from the middle of it."""
    async with standing(tmp_path) as world:
        leases, ledger = SqliteLeases(world.house.journal), world.authority.evidence
        await world.perform()
        call = world.call("pay", amount=5)
        with pytest.raises(ApprovalRequiredError) as asked:
            await world.perform(call)
        await world.register("other")
        issued = lease_of(world.opened.task.id, LeaseState.ISSUED, world)
        leases.put(issued)
        ledger.stage(issued.record(), Context(task=issued.task))
        await ledger.barrier()
        copy(tmp_path / "s" / "remit.db", tmp_path / "old.db")
        await world.authority.approvals.deny(asked.value.approval.id, BOSS)
        await world.authority.registry.suspend("helper", "user:ada")
        settled = issued.moved(LeaseState.SETTLED, confirmed=True)
        leases.put(settled)
        ledger.stage(settled.record(), Context(task=issued.task))
        await world.authority.registry.resume("helper", "user:ada")
        await world.perform()
        await world.authority.registry.suspend("helper", "user:ada")
        await ledger.barrier()
    return tmp_path / "s" / "remit.db"


def copy(source: Path, target: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(source)) as one,
        contextlib.closing(sqlite3.connect(target)) as two,
    ):
        one.backup(two)


def tamper(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(f"ATTACH '{path.parent.parent / 'old.db'}' AS old")
        for statement in statements:
            assert database.execute(statement).rowcount > 0, statement
        database.commit()


def put_back(table: str) -> str:
    return f"REPLACE INTO main.{table} SELECT * FROM old.{table}"


RESUMED = (
    "UPDATE agents SET document = replace(CAST(document AS TEXT), 'suspended', 'active') "
    "WHERE name = 'helper'"
)
WAYS = {
    "changed budget": (
        (
            "UPDATE tasks SET document = replace(CAST(document AS TEXT), '\"calls\":', '\"calls\":-')",
        ),
        "of `tasks` was changed",
    ),
    "flipped approval": (
        ("UPDATE approvals SET state = 'approved'",),
        "of `approvals` was changed",
    ),
    "resumed agent": (
        ("UPDATE agents SET document = replace(CAST(document AS TEXT), 'suspended', 'active')",),
        "row `helper` of `agents` was changed",
    ),
    "lease that comes alive": (
        ("UPDATE leases SET state = 'issued'",),
        "row `lease_1` of `leases` was changed",
    ),
    "repinned tool": (
        ("UPDATE catalogue SET document = document || ' ' WHERE target = 'desk/read'",),
        "row `desk/read` of `catalogue` was changed",
    ),
    "another's row under this key": (
        (
            "DELETE FROM agents WHERE name = 'helper'",
            "UPDATE agents SET name = 'helper' WHERE name = 'other'",
        ),
        "row `helper` of `agents` was changed",
    ),
    "removed task": (("DELETE FROM tasks",), "of `tasks` was removed"),
    "removed agent": (
        ("DELETE FROM agents WHERE name = 'helper'",),
        "row `helper` of `agents` was removed",
    ),
    "removed approval": (("DELETE FROM approvals",), "of `approvals` was removed"),
    "removed pin": (
        ("DELETE FROM catalogue WHERE target = 'desk/read'",),
        "a row of `catalogue` was removed",
    ),
    "older task": ((put_back("tasks"),), "of `tasks` was put back"),
    "older approval": ((put_back("approvals"),), "of `approvals` was put back"),
    "older agent": ((put_back("agents"),), "row `helper` of `agents` was put back"),
    "older lease": ((put_back("leases"),), "row `lease_1` of `leases` was put back"),
    "older state, seal and all": (
        (*map(put_back, ("tasks", "approvals", "agents", "leases", "catalogue", "state_seal")),),
        "records, but its state was sealed at",
    ),
    "another seal": (
        ("UPDATE state_seal SET sealed = zeroblob(64)",),
        "was not made with `state.key`",
    ),
    "no seal": (("DELETE FROM state_seal",), "has no seal"),
    "no tables": (
        (
            *(f"DELETE FROM {table}" for table in ("tasks", "approvals", "agents", "leases")),
            "DELETE FROM state_seal",
        ),
        "has no seal",
    ),
    "records cut off": (
        ("DELETE FROM record WHERE idx = (SELECT max(idx) FROM record)",),
        "records, but its state was sealed at",
    ),
}


@pytest.mark.parametrize("way", WAYS)
async def test_what_was_done_to_the_tables_at_rest_is_found_and_named(state: Path, way: str):
    statements, said = WAYS[way]
    tamper(state, *statements)
    assert any(said in fault for fault in look(state)), look(state)
    with pytest.raises(ProofError, match="changed while remit was stopped") as caught:
        await compose(load(state.parent.parent / "remit.toml"))
    assert said in str(caught.value)
    assert "--accept-state" in str(caught.value)
    with pytest.raises(ProofError):  # and once more: refusing seals nothing
        await compose(load(state.parent.parent / "remit.toml"))


async def test_what_nobody_touched_starts_again_and_again(state: Path):
    for _ in range(2):
        assert look(state) == ()
        house = await compose(load(state.parent.parent / "remit.toml"))
        await house.close()
    assert look(state) == ()


async def test_a_change_that_the_owner_stands_by_is_accepted_once_and_recorded(state: Path):
    tamper(state, RESUMED)
    config = load(state.parent.parent / "remit.toml")
    house = await compose(config, accept_state=True)
    records = [r for _, r in await house.authority.evidence.records(limit=1000)]
    await house.close()
    said = [record.body for record in records if record.kind == "authority.state_accepted"]
    assert said == [{"found": ["row `helper` of `agents` was changed"]}]
    await (await compose(config)).close()


async def accepted(state: Path) -> list[object]:
    """Start, and return what the log says was accepted so far."""
    house = await compose(load(state.parent.parent / "remit.toml"))
    records = [r for _, r in await house.authority.evidence.records(limit=1000)]
    await house.close()
    return [record.body for record in records if record.kind == "authority.state_accepted"]


async def test_a_start_that_accepts_and_then_fails_is_recorded_by_the_next_one(
    state: Path, monkeypatch: pytest.MonkeyPatch
):
    tamper(state, RESUMED)

    async def broken(_: object) -> None:
        raise ConfigError("the start ends here")

    with monkeypatch.context() as patched:
        patched.setattr(Registry, "load", broken)
        for _ in range(2):
            with pytest.raises(ConfigError):
                await compose(load(state.parent.parent / "remit.toml"), accept_state=True)
    for _ in range(2):  # and not said again
        assert await accepted(state) == [{"found": ["row `helper` of `agents` was changed"]}]


async def test_what_is_accepted_fits_a_record_whatever_it_is_called(state: Path):
    tamper(
        state,
        "INSERT INTO leases "
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) "
        "SELECT i || char(27) || hex(zeroblob(40000)), task, 'settled', "
        "expires_at, document, records, tag FROM leases, n WHERE id = 'lease_1'",
    )
    config = load(state.parent.parent / "remit.toml")
    with pytest.raises(ProofError, match="295 more") as caught:
        await compose(config)
    assert len(str(caught.value)) < 2000
    assert str(caught.value).isprintable()
    await (await compose(config, accept_state=True)).close()
    ((said,),) = [body.values() for body in await accepted(state)]
    assert len(said) == 200
    assert all(each.isprintable() and len(each) < 200 for each in said)


async def test_doctor_says_what_remit_up_would(state: Path, capsys: pytest.CaptureFixture[str]):
    config = str(state.parent.parent / "remit.toml")
    await asyncio.to_thread(status_of, ["doctor", "--json", "--config", config])
    assert "are as they were left" in capsys.readouterr().out
    tamper(state, "UPDATE approvals SET state = 'approved'")
    assert await asyncio.to_thread(status_of, ["doctor", "--json", "--config", config]) == 1
    assert "of `approvals` was changed" in capsys.readouterr().out


async def test_another_key_is_no_way_round_it(state: Path):
    (state.parent / "keys" / "state.key").unlink()
    with pytest.raises(ProofError, match=r"was not made with `state\.key`"):
        Journal.open(state)


@pytest.mark.parametrize("kept", [False, True])
async def test_a_lost_group_leaves_the_seal_true(state: Path, *, kept: bool):
    house = await compose(load(state.parent.parent / "remit.toml"))
    registry, journal = house.authority.registry, house.journal

    def write(connection: object) -> None:
        real = connection._commit_impl  # type: ignore[attr-defined]

        def commit() -> None:
            connection.__dict__.pop("_commit_impl")
            if kept:
                real()
            raise OSError(5, "Input/output error")

        connection.__dict__["_commit_impl"] = commit

    journal.stage(write)
    with contextlib.suppress(Exception):
        await registry.retire("other", "user:ada")
    assert journal.epoch == 1
    with contextlib.suppress(Exception):
        await registry.resume("helper", "user:ada")
    await registry.suspend("helper", "user:ada")
    await house.close()
    assert look(state) == ()


def test_looking_makes_nothing(tmp_path: Path):
    assert look(tmp_path / "remit.db") == ()
    assert list(tmp_path.iterdir()) == []
