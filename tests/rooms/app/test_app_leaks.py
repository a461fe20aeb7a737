"""`[leaks]`: rules where they are asked for, and what tasks are asked for with."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from processes import free_port

from remit.app.compose import House, compose
from remit.app.config import load
from remit.app.leaks import CACHE
from remit.app.packing import export
from remit.app.serve import serving
from remit.cli.client import ControlClient
from remit.closing import close_task
from remit.model.errors import ConfigError, RemitError
from remit.model.task import TaskState
from remit.proof.verify import verify_pack

CONFIG = """\
[authority]
state = "s"
listen = "127.0.0.1:{port}"
[upstream.desk]
command = ["true"]
[policy]
templates = "t"
[leaks]
rules = {rules}
"""
TEMPLATE = 'purpose = "Read"\n[[capability]]\ntool = "desk/read"\n'
# Put together here, so that no scanner of this repository takes it for one that was lost.
OTHERS = "xoxb-" + "263594206564-2343594206574-FGqddMF8t08v8N7Oq4i57vs1"
OURS = "minted-token-0123456789"


def written(folder: Path, rules: str = "true") -> Path:
    (folder / "t").mkdir()
    (folder / "t" / "read.toml").write_text(TEMPLATE)
    (folder / "remit.toml").write_text(CONFIG.format(port=free_port(), rules=rules))
    return folder / "remit.toml"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the rules once: the first start of an installation takes its time."""
    from remit.gateway.kingfisher import Kingfisher  # noqa: PLC0415 - an extra's package

    folder = tmp_path_factory.mktemp("compiled")
    Kingfisher(folder)
    return folder


@pytest.fixture
async def up(tmp_path: Path, compiled: Path) -> AsyncIterator[House]:
    (tmp_path / "s").mkdir(mode=0o700)
    shutil.copytree(compiled, tmp_path / "s" / CACHE)
    async with serving(load(written(tmp_path))) as house:
        await asyncio.to_thread(
            ControlClient(house.loaded.control_socket).post,
            "agents",
            body={"name": "helper", "owner": "user:ada", "templates": ["read"]},
        )
        yield house


async def opened(house: House, **asked: Any) -> Any:
    body = {"agent": "helper", "template": "read", **asked}
    client = ControlClient(house.loaded.control_socket)
    return await asyncio.to_thread(client.post, "tasks", body=body)


async def records(house: House, kind: str) -> list[Any]:
    ledger = house.authority.evidence
    await ledger.publisher.publish()
    entries = await ledger.log.entries(0, ledger.publisher.size)
    return [each for each in map(json.loads, entries) if each["kind"] == kind]


async def test_without_its_package_rules_are_a_mistake_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "kingfisher_sdk", None)
    monkeypatch.delitem(sys.modules, "remit.gateway.kingfisher", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'remit\[leaks\]'"):
        await compose(load(written(tmp_path)))


async def test_without_rules_no_package_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "kingfisher_sdk", None)
    house = await compose(load(written(tmp_path, "false")))
    assert not (house.loaded.state / CACHE).exists()
    await house.close()


async def test_compiled_rules_are_kept_in_the_state_folder_by_the_owner_alone(up: House):
    cache = up.loaded.state / CACHE
    assert any(cache.rglob("*"))
    assert cache.stat().st_mode & 0o077 == 0


async def test_anothers_credential_in_a_prompt_is_a_finding_without_its_value(up: House):
    task = await opened(up, prompt=f"Post it with {OTHERS}, please")
    (found,) = await records(up, "task.prompt_leak")
    assert found["task"] == task["id"]
    (leak,) = found["body"]["leaks"]
    assert (leak["count"], leak["lease"]) == (1, None)
    assert "slack" in leak["rule"]
    assert OTHERS not in json.dumps(found)
    await close_task(task["id"], TaskState.COMPLETED, "user:ada", up.authority)
    pack = await export(up, task["id"])
    assert verify_pack(pack, [up.authority.evidence.signer.vkey]).sealed


async def test_an_innocent_prompt_is_no_finding(up: House):
    await opened(up, prompt="Read ticket 88 and say what it is about")
    assert await records(up, "task.prompt_leak") == []


@pytest.mark.parametrize("where", ["prompt", "purpose", "on_behalf_of"])
async def test_a_minted_credential_in_what_a_task_is_asked_with_is_refused_and_revoked(
    up: House, where: str, monkeypatch: pytest.MonkeyPatch
):
    settled: list[str] = []

    async def settle(leases: Any) -> None:
        settled.extend(leases)

    monkeypatch.setattr(up.egress.guard, "_secrets", lambda: {OURS: "lease_1"})
    monkeypatch.setattr(up.authority.leases, "settle_these", settle)
    with pytest.raises(RemitError, match="holds a credential that remit minted"):
        await opened(up, **{where: f"with {OURS}"})
    assert settled == ["lease_1"]
    (refused,) = await records(up, "leak.refused")
    assert refused["body"]["in"] == "task"
    assert await records(up, "task.opened") == []
    files = [each for each in up.loaded.folder.rglob("*") if each.is_file()]
    assert not [each for each in files if OURS.encode() in each.read_bytes()]
