"""What docs/operate/keys-and-backup.md says of backups holds."""

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from evidence_house import House, leave

from remit.model.errors import ProofError

PAGE = Path(__file__).parents[3] / "docs" / "operate" / "keys-and-backup.md"


def backup_command() -> str:
    found = re.search(r"```sh\n(python3 .*?)\n```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def run(command: str, folder: Path) -> None:
    subprocess.run(command, shell=True, check=True, cwd=folder)


async def test_a_backup_of_a_running_authority_starts_and_continues_the_log(tmp_path: Path):
    house = House(tmp_path / "state")
    ledger = await house.open()
    record = leave(ledger, "call.failed", payloads={"result": b"kept"})
    await ledger.publisher.publish()
    backup = tmp_path / "backup"
    for part in ("keys", "log"):
        shutil.copytree(house.folder / part, backup / part)
    for n in range(50):
        leave(ledger, "call.failed", call=f"call_{n}")
    await ledger.barrier()
    await asyncio.to_thread(run, backup_command(), tmp_path)
    await house.close(ledger)

    restored = House(backup)
    ledger = await restored.open()
    assert len(await ledger.records()) == 51
    opened = await ledger.open_payload(record, "result")
    assert opened is not None
    assert opened.data == b"kept"
    await restored.close(ledger)


async def test_a_database_older_than_its_log_starts_only_as_a_new_log(house: House, tmp_path: Path):
    ledger = await house.open()
    leave(ledger, "call.failed")
    await house.close(ledger)
    shutil.copyfile(house.folder / "remit.db", tmp_path / "old.db")
    ledger = await house.open()
    leave(ledger, "call.failed")
    await house.close(ledger)
    old_key = ledger.signer.vkey
    shutil.copyfile(tmp_path / "old.db", house.folder / "remit.db")
    with pytest.raises(ProofError, match="holds 1 records, but 2 were published"):
        await house.open()
    shutil.move(house.folder / "log", tmp_path / "log")
    shutil.move(house.folder / "keys" / "log.key", tmp_path / "log.key")
    ledger = await house.open()
    assert ledger.signer.vkey != old_key
    await house.close(ledger)
    assert ledger.publisher.size == 1
