"""A relying party takes `proof` and `model` away and needs nothing else of Remit, nor a network."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from packs import LOG, WITNESS, tale

import remit.model
import remit.proof

SCRIPT = """
import sys
sys.path[:0] = sys.argv[1:3]
import importlib.util
import remit
assert [str(each) for each in remit.__path__] == [sys.argv[1] + "/remit"], list(remit.__path__)
for room in ("evidence", "storage", "identity", "app", "cli", "spine"):
    assert importlib.util.find_spec("remit." + room) is None, room

def watch(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.fork")):
        raise SystemExit("tried " + event)

from remit.proof.verify import verify_pack
data = sys.stdin.buffer.read()
sys.addaudithook(watch)
verdict = verify_pack(data, sys.argv[3:])
for number, step in enumerate(verdict.steps, 1):
    print(number, step.name)
assert verdict.trusted_key and verdict.sealed and verdict.witnesses
names = {name.partition(".")[0] for name in sys.modules}
for name in ("aiohttp", "sqlalchemy", "starlette", "structlog", "mcp", "cedarpy", "grpclib"):
    assert name not in names, name
rooms = {name.split(".")[1] for name in sys.modules if name.startswith("remit.")}
assert rooms == {"proof", "model"}, rooms
"""


def test_a_pack_verifies_where_only_proof_and_model_are_installed(tmp_path: Path):
    for module in (remit.proof, remit.model):
        (source,) = module.__path__
        shutil.copytree(source, tmp_path / "remit" / Path(source).name)
    told = tale()
    told.witnesses = (WITNESS,)
    told.disclose = frozenset({"prompt"})
    script = tmp_path / "verify.py"
    script.write_text(SCRIPT)
    run = subprocess.run(
        [
            *(sys.executable, "-I", "-S", str(script), str(tmp_path)),
            sysconfig.get_paths()["purelib"],
            LOG.verifier.vkey,
            WITNESS.verifier.vkey,
        ],
        input=told.data(),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr.decode()
    assert run.stdout.decode().splitlines()[-1] == "11 payloads"
