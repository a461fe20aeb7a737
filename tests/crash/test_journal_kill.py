"""kill -9 of a writer under load: what a barrier promised is there, and the log goes on."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from evidence_house import House

from remit.proof.checkpoint import open_checkpoint
from remit.proof.merkle import Tree, verify_consistency

WRITER = """
import asyncio, sys
from pathlib import Path
from evidence_house import House, leave

async def main(folder, tag):
    house = House(Path(folder))
    ledger = await house.open()
    print("started", flush=True)

    async def caller(name):
        turn = 0
        while True:
            call = f"call_{tag}_{name}_{turn}"
            turn += 1
            one = leave(ledger, "call.identified", call=call, task=None)
            two = leave(ledger, call=call, effect="permit", decision=f"dec_{call}",
                        payloads={"facts": b"x" * 300})
            await ledger.barrier()
            sys.stdout.write(f"{one} {two}\\n")
            if turn % 2:
                three = leave(ledger, "call.succeeded", call=call, payloads={"result": b"y"})
                await ledger.barrier()
                sys.stdout.write(f"{three}\\n")
            sys.stdout.flush()

    await asyncio.gather(*(caller(n) for n in range(16)))

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""

SUPPORT = str(Path(__file__).resolve().parents[1] / "support")
SEEDS = int(os.environ.get("REMIT_CRASH_SEEDS", "2"))

pytestmark = pytest.mark.crash


async def run_and_kill(folder: Path, tag: str, seconds: float) -> set[str]:
    """Run the writer, kill it after ``seconds`` of work, and return the ids it was promised."""
    writer = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        WRITER,
        str(folder),
        tag,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": SUPPORT},
    )
    assert writer.stdout is not None
    assert await writer.stdout.readline() == b"started\n"
    reading = asyncio.ensure_future(writer.stdout.read())
    await asyncio.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        writer.send_signal(signal.SIGKILL)
    said = (await reading).decode()
    await writer.wait()
    whole = said[: said.rfind("\n") + 1]  # the last line may be cut short
    return set(whole.split())


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_what_a_barrier_promised_survives_a_kill_and_the_log_continues(
    tmp_path: Path, seed: int
):
    house = House(tmp_path / "state")
    draw = random.Random(seed)
    promised: set[str] = set()
    for round_ in range(2):
        promised |= await run_and_kill(house.folder, str(round_), draw.uniform(0.02, 0.9))
        checkpoint = house.folder / "log" / "checkpoint"
        before = checkpoint.read_bytes() if checkpoint.exists() else None

        ledger = await house.open()
        records = []
        while page := await ledger.records(after=len(records) - 1, limit=1000):
            records += page
        assert [index for index, _ in records] == list(range(len(records)))
        assert promised <= {record.id for _, record in records}

        outcomes: dict[str, int] = {}
        for _, record in records:
            if record.call is not None:
                ended = record.kind in {"call.succeeded", "call.unknown", "call.failed"}
                outcomes[record.call] = outcomes.get(record.call, 0) + ended
        assert set(outcomes.values()) <= {1}
        for _, record in records:
            for name in record.payloads:
                assert await ledger.open_payload(record.id, name) is not None
            if record.payloads:
                break

        await house.close(ledger)
        if before is not None:
            old = open_checkpoint(before, [ledger.signer.verifier]).checkpoint
            new = open_checkpoint(checkpoint.read_bytes(), [ledger.signer.verifier]).checkpoint
            tree: Tree = ledger.log.tree
            assert new.size == tree.size
            if old.size:
                proof = tree.consistency(old.size, new.size)
                verify_consistency(old.size, new.size, old.root, new.root, proof)
    assert promised
