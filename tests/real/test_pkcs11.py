"""Keys in a real token, SoftHSM, and a whole Remit whose log's key lies there."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from authority import Place, draft
from certificate_house import INSTALLATION, surroundings
from openssh import ACCOUNT, sshd
from processes import remit
from softhsm import PIN, SoftHsm

from remit.app.own_keys import OwnKeys
from remit.credentials.brokers.ssh.broker import SshBroker
from remit.evidence.ports import CheckpointKey
from remit.keystore import pkcs11
from remit.keystore.kept import KeptKey
from remit.keystore.pkcs11 import Pkcs11Key
from remit.keystore.ports import Algorithm
from remit.model.errors import ConfigError, NotMintedError, RemitError, UnavailableError
from remit.testing.broker_suite import Lab
from remit.testing.key_suite import CheckpointKeySuite, KeyProviderSuite, Shelf

pytestmark = pytest.mark.real

NAME = "`[keys] log`"


@pytest.fixture
def hsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftHsm:
    return SoftHsm.lay(tmp_path / "hsm", monkeypatch)


def kept(uri: str, algorithm: Algorithm = Algorithm.ED25519) -> KeptKey:
    return KeptKey.open(Pkcs11Key(uri, algorithm), algorithm, NAME)


def make(uri: str, algorithm: Algorithm = Algorithm.ED25519) -> None:
    KeptKey(Pkcs11Key(uri, algorithm), algorithm, NAME).make()


class TestKeyInToken(CheckpointKeySuite):
    @pytest.fixture
    def key(self, hsm: SoftHsm) -> CheckpointKey:
        make(hsm.uri())
        return kept(hsm.uri())


class TokenShelf:
    """A shelf of the suite's: the token ``remit``."""

    algorithms = tuple(Algorithm)
    secrets = (PIN,)

    def __init__(self, hsm: SoftHsm) -> None:
        self._hsm = hsm
        self.take_away, self.put_back = hsm.take_away, hsm.put_back

    def key(self, name: str, algorithm: Algorithm) -> Pkcs11Key:
        return Pkcs11Key(self._hsm.uri(name), algorithm)


class TestToken(KeyProviderSuite):
    @pytest.fixture
    def shelf(self, hsm: SoftHsm) -> Shelf:
        return TokenShelf(hsm)


def test_a_key_on_p_256_signs_too(hsm: SoftHsm):
    make(hsm.uri("ca"), Algorithm.ES256)
    key = kept(hsm.uri("ca"), Algorithm.ES256)
    assert key.sign(b"once") != key.sign(b"once")
    key.check()


def test_a_missing_key_is_refused_with_the_command_that_makes_it(hsm: SoftHsm):
    with pytest.raises(ConfigError, match="there is no key") as refused:
        kept(hsm.uri())
    command = re.search(r"`(pkcs11-tool [^`]*)`", str(refused.value))
    assert command is not None
    hsm.run(*shlex.split(command[1]), "--pin", PIN)
    kept(hsm.uri())


def test_a_key_of_another_kind_is_refused(hsm: SoftHsm):
    make(hsm.uri(), Algorithm.ES256)
    with pytest.raises(ConfigError, match="of another kind"):
        kept(hsm.uri())


def test_a_key_that_was_made_here_cannot_be_taken_out_and_is_made_once(hsm: SoftHsm):
    make(hsm.uri())
    before = kept(hsm.uri()).public_bytes
    listed = hsm.tool("--list-objects", "--type", "privkey")
    assert "sensitive, always sensitive, never extractable, local" in listed
    assert "Usage:      sign\n" in listed
    with pytest.raises(ConfigError, match="already"):
        make(hsm.uri())
    assert kept(hsm.uri()).public_bytes == before


def test_two_keys_of_one_name_are_told_apart_by_their_id(hsm: SoftHsm):
    for number in ("01", "02"):
        arguments = ("--keypairgen", "--key-type", "EC:edwards25519", "--label", "log")
        hsm.tool(*arguments, "--id", number)
    with pytest.raises(ConfigError, match="several keys"):
        kept(hsm.uri())
    first, second = (kept(hsm.uri(f"log;id=%0{number}")) for number in (1, 2))
    assert first.public_bytes != second.public_bytes


def test_two_keys_of_one_token_do_not_log_each_other_out(hsm: SoftHsm):
    make(hsm.uri())
    make(hsm.uri("ca"), Algorithm.ES256)
    log, authority = kept(hsm.uri()), kept(hsm.uri("ca"), Algorithm.ES256)
    for _ in range(3):
        log.check()
        authority.check()
    hsm.take_away()
    for key in (log, authority):
        with pytest.raises(UnavailableError):
            key.check()
    hsm.put_back()
    authority.check()
    log.check()


def test_a_token_that_came_back_is_found_by_itself(hsm: SoftHsm):
    make(hsm.uri())
    key = kept(hsm.uri())
    hsm.take_away()
    for _ in range(3):
        with pytest.raises(UnavailableError, match="look at its token"):
            key.sign(b"x")
    hsm.put_back()
    key.sign(b"x")


def test_another_token_of_that_name_signs_nothing(hsm: SoftHsm):
    make(hsm.uri())
    key = kept(hsm.uri())
    hsm.take_away()
    hsm.tokens.mkdir()
    hsm.initialize("remit")
    hsm.tool("--keypairgen", "--key-type", "EC:edwards25519", "--label", "log")
    for _ in range(3):
        with pytest.raises(UnavailableError):
            key.sign(b"x")
    with pytest.raises(UnavailableError, match="does not verify"):
        key.sign(b"x")
    shutil.rmtree(hsm.tokens)
    hsm.put_back()
    key.sign(b"x")


def test_a_missing_token_is_named(hsm: SoftHsm):
    with pytest.raises(UnavailableError, match="there is no token `other`"):
        kept(hsm.uri(token="other"))


def test_a_pin_that_was_refused_is_not_tried_again_until_there_is_another(
    hsm: SoftHsm, monkeypatch: pytest.MonkeyPatch
):
    """Tokens lock themselves after a few; the publisher would try twice a second."""
    make(hsm.uri())
    tries: list[str] = []
    find = pkcs11._token

    class Counted:
        def __init__(self, token: Any) -> None:
            self._token = token
            self.serial = token.serial

        def open(self, **how: Any) -> Any:
            tries.append(how.get("user_pin", ""))
            return self._token.open(**how)

    monkeypatch.setattr(pkcs11, "_token", lambda *which: Counted(find(*which)))
    pkcs11._modules[hsm.module].restart()
    hsm.pin.write_text("00000000\n")
    key = KeptKey(Pkcs11Key(hsm.uri(), Algorithm.ED25519), Algorithm.ED25519, NAME)
    for _ in range(5):
        with pytest.raises(UnavailableError, match="does not take the PIN in the file") as refused:
            key.sign(b"x")
        assert "00000000" not in str(refused.value)
    assert tries == ["00000000"]
    hsm.pin.write_text(PIN)
    kept(hsm.uri()).check()


@pytest.mark.parametrize("kind", ["text", "missing", "folder", "others may write", "no module"])
def test_what_is_no_module_of_ours_is_not_loaded(hsm: SoftHsm, tmp_path: Path, kind: str):
    path = tmp_path / "module.so"
    if kind == "text":
        path.write_text("not a library")
    elif kind == "folder":
        path.mkdir()
    elif kind == "others may write":
        shutil.copy(hsm.module, path)
        path.chmod(0o666)
    elif kind == "no module":
        libraries = Path("/usr/lib").glob("**/libz.so.1*")
        shutil.copy(next(each for each in libraries if each.is_file()), path)
    uri = hsm.uri().replace(str(hsm.module), str(path))
    with pytest.raises(RemitError, match=re.escape(str(path))) as refused:
        kept(uri)
    assert PIN not in str(refused.value)


async def test_an_ssh_authority_in_a_token_lets_in_and_out_at_a_real_host(
    hsm: SoftHsm, tmp_path: Path
):
    make(hsm.uri("hosts"), Algorithm.ES256)
    (tmp_path / "lists").mkdir()
    keys = OwnKeys()
    around = replace(surroundings(tmp_path), open_key=keys.authority)
    table = {"ca_key": hsm.uri("hosts"), "krl": {"file": "lists/krl"}}
    broker = SshBroker("hosts", table, around)
    assert [step.body["kind"] for step in keys.loaded] == ["pkcs11"]
    authority = tmp_path / "state/brokers/hosts.pub"
    with sshd(tmp_path / "sshd", authority, tmp_path / "lists/krl") as server:
        lab = Lab(Host(broker))  # type: ignore[arg-type]

        async def login(values: Mapping[str, str]) -> int:
            done = await asyncio.to_thread(server.login, values, "true", folder=tmp_path / "client")
            return done.returncode

        lease, credential = await lab.issue()
        assert await login(credential.values) == 0
        hsm.take_away()
        with pytest.raises(NotMintedError, match="nothing can be signed"):
            await lab.issue()
        assert keys.health() is not None
        await lab.revoke(lease, credential)  # sshd's list wants no signature
        assert await login(credential.values) != 0
        hsm.put_back()
        await keys.look()
        assert keys.health() is None
        _, credential = await lab.issue()
        assert await login(credential.values) == 0


class Host:
    """What the suite's Lab asks of a target."""

    installation = INSTALLATION
    names_are_ours = True
    grant: Mapping[str, Any] = {"principals": [ACCOUNT]}

    def __init__(self, broker: SshBroker) -> None:
        self.broker = broker


@pytest.mark.timeout(300)  # it starts ten processes
async def test_a_remit_whose_logs_key_lies_in_a_token(hsm: SoftHsm, tmp_path: Path):
    place = Place(tmp_path)
    place.config.write_text(
        f"{place.config.read_text()}[limits]\npublish_grace_seconds = 1.5\n"
        f"[keys]\nlog = {json.dumps(hsm.uri())}\n"
    )
    refused = command("up", "--config", place.config)
    assert refused.returncode == 2
    assert "there is no key at `pkcs11:token=remit;object=log`" in refused.stderr
    made = command("keys", "make", "log", "--json", "--config", place.config)
    assert made.returncode == 0, made.stderr
    vkey = json.loads(made.stdout)["public"]
    assert command("keys", "make", "log", "--config", place.config).returncode == 2

    told: list[str] = []
    with place.helpdesk(), place.up():
        place.register()
        task, token = place.open()
        svid = place.svid()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)) as session:

            async def acts(body: str) -> bool:
                answer = await draft(session, place, svid=svid, token=token, body=body)
                told.append(str(answer))
                return answer.get("result", {}).get("isError") is False

            assert await acts("before"), told
            assert (await ready(place, 200))["evidence"] == "ready"
            hsm.take_away()
            async with asyncio.timeout(30):
                number = 0
                while await acts(f"while {number}"):
                    number += 1
            assert "no checkpoint can be signed" in told[-1]
            assert not await acts("gone")
            assert "look at its token" in (await ready(place, 503))["evidence"]
            hsm.put_back()
            await ready(place, 200)
            assert await acts("after")
        assert "gone" not in place.drafts()
        assert "after" in place.drafts()
        place.control.post("tasks", task, "complete")

    with place.up():  # the same key after a restart, and the same log
        assert place.control.get("status")["log"]["vkey"] == vkey
        assert place.published().size > 0
        pack = tmp_path / "task.pack"
        exported = command("evidence", "export", task, "-o", pack, "--config", place.config)
        assert exported.returncode == 0, exported.stderr
    verified = command("evidence", "verify", pack, "--vkey", vkey)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert not (tmp_path / "s" / "keys" / "log.key").exists()
    assert holding_the_pin(tmp_path, hsm) == []
    assert PIN not in "".join(told)


def holding_the_pin(folder: Path, hsm: SoftHsm) -> list[Path]:
    files = [
        each for each in folder.rglob("*") if each.is_file() and hsm.folder not in each.parents
    ]
    assert len(files) > 10
    return [each for each in files if PIN.encode() in each.read_bytes()]


async def ready(place: Place, status: int) -> dict[str, str]:
    """Wait until ``/readyz`` answers ``status``; return what it says of each part."""
    end = time.monotonic() + 30
    while True:
        found, said = await asyncio.to_thread(place.get, "readyz")
        if found == status:
            parts: dict[str, str] = said["parts"]
            return parts
        assert time.monotonic() < end, said
        await asyncio.sleep(0.1)


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in remit(*arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
