"""A governed call with a key that its service will never take back: opened once, owned up to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import world
from world import World

from remit.model.errors import BrokerError

SECRET = "sk-live-0123456789abcdef"
CONFIGURED = """\
[upstream.desk.credential]
broker = "old"
env = { KEY = "{key}" }
grant = { key = "crm" }
[broker.old]
kind = "sealed"
"""


@pytest.fixture
async def lived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(world, "CONFIG", world.CONFIG + CONFIGURED)
    async with world.standing(tmp_path) as made:
        yield made


async def test_a_call_gets_the_key_and_its_record_says_that_the_key_lives_on(lived: World):
    await lived.house.sealed.seal("crm", SECRET, "user:ada")
    call = lived.call()
    await lived.perform(call)
    (credential,) = lived.credentials
    assert credential is not None
    assert credential.values == {"key": SECRET}
    records = [record for _, record in await lived.authority.evidence.find(call.id)]
    kinds = [record.kind for record in records]
    assert kinds.index("lease.reserved") < kinds.index("credential.opened")
    assert kinds.index("credential.opened") < kinds.index("lease.settled")
    settled = records[kinds.index("lease.settled")]
    assert settled.body["confirmed"] is False
    assert settled.body["revocation"] == "never"
    assert "lives on" in str(settled.body["detail"])
    assert lived.authority.leases.open_leases() == ()
    assert SECRET not in repr(records)


async def test_no_file_of_the_authority_holds_the_key_in_clear(lived: World):
    await lived.house.sealed.seal("crm", SECRET, "user:ada")
    await lived.perform()
    await lived.authority.evidence.barrier()
    files = [each for each in lived.house.loaded.folder.rglob("*") if each.is_file()]
    assert files
    assert not [each for each in files if SECRET.encode() in each.read_bytes()]


async def test_without_its_key_a_call_does_not_act(lived: World):
    with pytest.raises(BrokerError, match="remit credential seal"):
        await lived.perform()
    await lived.house.sealed.seal("crm", SECRET, "user:ada")
    await lived.perform()
    await lived.house.sealed.remove("crm", "user:ada")
    with pytest.raises(BrokerError, match="crm"):
        await lived.perform()
    assert len(lived.acted) == 1
    assert lived.authority.leases.open_leases() == ()
