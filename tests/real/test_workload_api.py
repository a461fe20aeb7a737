"""The unmodified `spiffe` client from PyPI, in processes of its own, with no secret at all."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from workload_house import DOMAIN, Control, House, agent_id, control_socket, workload_house

from remit.identity.workload_api.proc import process
from remit.identity.workload_api.service import Limits

pytestmark = pytest.mark.real

SECONDS = 60
RUN = """
import sys
from pathlib import Path
from remit.cli.run_agent import run_agent
socket, agent, endpoint, *command = sys.argv[1:]
sys.exit(run_agent(command, agent=agent, socket=Path(socket),
                   environment={"SPIFFE_ENDPOINT_SOCKET": endpoint}))
"""
IDENTITY = """
import json
from spiffe import WorkloadApiClient
with WorkloadApiClient() as client:
    jwt = client.fetch_jwt_svid(audience={"remit"}, timeout=20)
    x509 = client.fetch_x509_svid(timeout=20)
    print(json.dumps([str(jwt.spiffe_id), str(x509.spiffe_id)]), flush=True)
"""
EVERYTHING = """
import json
from cryptography.hazmat.primitives.asymmetric import ec
from spiffe import JwtSvid, SpiffeId, TrustDomain, WorkloadApiClient
with WorkloadApiClient() as client:
    domain = TrustDomain("remit.test")
    jwt = client.fetch_jwt_svid(audience={"remit", "known"}, timeout=20)
    keys = client.fetch_jwt_bundles(timeout=20).get_bundle_for_trust_domain(domain)
    checked = JwtSvid.parse_and_validate(jwt.token, keys, {"remit"})
    context = client.fetch_x509_context(timeout=20)
    leaf = context.default_svid.leaf
    authorities = context.x509_bundle_set.get_bundle_for_trust_domain(domain).x509_authorities
    same = client.fetch_x509_bundles(timeout=20).get_bundle_for_trust_domain(domain)
    for authority in authorities:
        try:
            leaf.verify_directly_issued_by(authority)
            break
        except Exception:
            continue
    else:
        raise SystemExit("no authority issued the leaf")
    assert context.default_svid.private_key.public_key() == leaf.public_key()
    assert set(same.x509_authorities) == set(authorities)
    named = client.fetch_jwt_svid(audience={"x"}, subject=checked.spiffe_id, timeout=20)
    assert named.spiffe_id == checked.spiffe_id
    told = client.validate_jwt_svid(jwt.token, "known", timeout=20)
    try:
        client.fetch_jwt_svid(audience={"x"}, subject=SpiffeId("spiffe://remit.test/other"), timeout=20)
        raise SystemExit("another's identity was issued")
    except Exception as error:
        assert "PERMISSION_DENIED" in str(error), error
    print(json.dumps([str(checked.spiffe_id), str(context.default_svid.spiffe_id)]), flush=True)
"""
REFUSED = """
import json
from spiffe import WorkloadApiClient
said = []
with WorkloadApiClient() as client:
    for fetch in (client.fetch_x509_svid, client.fetch_x509_bundles, client.fetch_jwt_bundles,
                  lambda timeout: client.fetch_jwt_svid(audience={"remit"}, timeout=timeout)):
        try:
            fetch(timeout=20)
            said.append("issued")
        except Exception as error:
            said.append("PERMISSION_DENIED" in str(error))
print(json.dumps(said), flush=True)
"""
GRANDCHILD = f"""
import os, subprocess, sys
if os.fork() == 0:
    os._exit(subprocess.run([sys.executable, "-c", {IDENTITY!r}]).returncode)
os.wait()
"""
SOURCE = """
import json, sys, threading
from spiffe import X509Source
moved = threading.Event()
with X509Source(timeout_in_seconds=20) as source:
    first = source.svid.leaf.serial_number
    def look():
        if source.svid.leaf.serial_number != first:
            moved.set()
    source.subscribe_for_updates(look)
    look()
    print(json.dumps(str(source.svid.spiffe_id)), flush=True)
    print(json.dumps(moved.wait(30)), flush=True)
"""
BOTH_SCHEMAS = """
import spiffe
from remit.identity.workload_api import workload_pb2
from spiffe._proto import workload_pb2 as theirs
ours = workload_pb2.JWTSVIDRequest(audience=["a"], spiffe_id="b").SerializeToString()
read = theirs.JWTSVIDRequest.FromString(ours)
assert (list(read.audience), read.spiffe_id) == (["a"], "b")
print("true")
"""


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with workload_house(tmp_path, Limits(recheck_seconds=600)) as running:
        yield running


@pytest.fixture
def control(house: House, tmp_path: Path) -> Iterator[Control]:
    house.roll.agents |= {"support", "code"}
    with control_socket(tmp_path / "control", house.book, house.roll.agents) as running:
        yield running


async def spawn(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **environment, "GRPC_VERBOSITY": "NONE"},
    )


async def answer_of(running: asyncio.subprocess.Process) -> Any:
    async with asyncio.timeout(SECONDS):
        said, _ = await running.communicate()
    assert running.returncode == 0
    return json.loads(said)


async def plain(house: House, code: str) -> asyncio.subprocess.Process:
    return await spawn("-c", code, SPIFFE_ENDPOINT_SOCKET=house.endpoint)


async def under(
    house: House, control: Control, agent: str, code: str
) -> asyncio.subprocess.Process:
    inner = (sys.executable, "-c", code)
    return await spawn("-c", RUN, str(control.path), agent, house.endpoint, *inner)


async def test_the_official_client_gets_and_checks_every_document(house: House):
    house.roll.admit("told", f"unix:uid:{os.getuid()}")
    assert await answer_of(await plain(house, EVERYTHING)) == [str(agent_id("told"))] * 2


async def test_a_process_that_no_entry_names_gets_nothing(house: House, control: Control):
    house.roll.admit("wrong", f"unix:uid:{os.getuid()}", f"unix:sha256:{'0' * 64}")
    assert await answer_of(await plain(house, REFUSED)) == [True] * 4
    assert control.asked == []


async def test_two_agents_under_one_uid_and_one_interpreter_are_told_apart(
    house: House, control: Control
):
    # The interpreter's selectors match both, and give way to what was registered.
    house.roll.admit("by-selector", f"unix:uid:{os.getuid()}")
    runs = [await under(house, control, name, IDENTITY) for name in ("support", "code")]
    said = [await answer_of(running) for running in runs]
    assert said == [[str(agent_id("support"))] * 2, [str(agent_id("code"))] * 2]


async def test_a_forked_grandchild_has_its_ancestors_identity(house: House, control: Control):
    said = await answer_of(await under(house, control, "support", GRANDCHILD))
    assert said == [str(agent_id("support"))] * 2


async def test_an_agent_that_was_suspended_gets_nothing(house: House, control: Control):
    house.roll.agents.discard("support")
    # Registered while it was active, suspended since: the registration stands, the identity not.
    me = process(os.getpid())
    assert me is not None
    house.book.register("support", me.pid, me.start_time, os.getuid())
    assert await answer_of(await plain(house, REFUSED)) == [True] * 4


async def test_a_rotation_reaches_the_official_clients_open_stream(house: House):
    house.roll.admit("a", f"unix:uid:{os.getuid()}")
    house.domain.listen(house.api.changed)
    running = await plain(house, SOURCE)
    assert running.stdout is not None
    async with asyncio.timeout(SECONDS):
        assert json.loads(await running.stdout.readline()) == f"spiffe://{DOMAIN}/agent/a"
        house.domain.rotate()
        assert json.loads(await running.stdout.readline()) is True
        await running.wait()


async def test_both_copies_of_the_schema_live_in_one_process():
    assert await answer_of(await spawn("-W", "error", "-c", BOTH_SCHEMAS)) is True
