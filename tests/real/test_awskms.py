"""Keys in AWS KMS: authorities' at moto, and a whole Remit whose log's key lies in a KMS.

moto checks the signatures of requests and what a user may do, and keeps keys on P-256; it has no
Ed25519. The log's key lies in a server of ours, written from AWS's description of the service.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from authority import Place, draft
from certificate_house import INSTALLATION, surroundings
from kms_server import ACCESS_KEY, SECRET_KEY, Kms, log_in
from moto_kms import MotoKms, moto_kms
from openssh import ACCOUNT, sshd
from test_pkcs11 import command, ready

from remit.app.own_keys import OwnKeys
from remit.credentials.brokers.ssh.broker import SshBroker
from remit.keystore.awskms import KmsKey
from remit.keystore.kept import KeptKey
from remit.keystore.ports import Algorithm
from remit.model.errors import NotMintedError, UnavailableError
from remit.testing.broker_suite import Lab
from remit.testing.key_suite import KeyProviderSuite, Shelf

pytestmark = pytest.mark.real

ALL = ("kms:GetPublicKey", "kms:Sign", "kms:CreateKey", "kms:CreateAlias")


@pytest.fixture(scope="module")
def account() -> Iterator[MotoKms]:
    with moto_kms() as server:
        yield server


@pytest.fixture
def known(account: MotoKms, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    key = account.user(secrets.token_hex(4), *ALL)
    log_in(monkeypatch, *key)
    return key


class Account:
    """A shelf of the suite's: moto, and names that nobody had before."""

    algorithms = (Algorithm.ES256,)

    def __init__(self, server: MotoKms, known: tuple[str, str]) -> None:
        self._server, self._own = server, secrets.token_hex(4)
        self.secrets = known
        self.take_away, self.put_back = server.stop, server.go_on

    def key(self, name: str, algorithm: Algorithm) -> KmsKey:
        return KmsKey(self._server.uri(f"{self._own}/{name}"), algorithm)


class TestMoto(KeyProviderSuite):
    @pytest.fixture
    def shelf(self, account: MotoKms, known: tuple[str, str]) -> Shelf:
        return Account(account, known)


def test_the_account_decides_who_signs(
    account: MotoKms, known: tuple[str, str], monkeypatch: pytest.MonkeyPatch
):
    where = account.uri(secrets.token_hex(4))
    KmsKey(where, Algorithm.ES256).make()
    log_in(monkeypatch, *account.user(secrets.token_hex(4), "kms:GetPublicKey"))
    looks = KmsKey(where, Algorithm.ES256)
    assert looks.public_key()
    with pytest.raises(UnavailableError, match="`kms:Sign` is refused"):
        looks.sign(b"x")
    log_in(monkeypatch, known[0], "not the key of this id")
    with pytest.raises(UnavailableError, match="look at what Remit may do there") as refused:
        KmsKey(where, Algorithm.ES256).public_key()
    assert "not the key" not in str(refused.value)


async def test_an_ssh_authority_in_a_kms_lets_in_and_out_at_a_real_host(
    account: MotoKms, known: tuple[str, str], tmp_path: Path
):
    where = account.uri(secrets.token_hex(4))
    KeptKey(KmsKey(where, Algorithm.ES256), Algorithm.ES256, "ca").make()
    (tmp_path / "lists").mkdir()
    keys = OwnKeys()
    around = replace(surroundings(tmp_path), open_key=keys.authority)
    broker = SshBroker("hosts", {"ca_key": where, "krl": {"file": "lists/krl"}}, around)
    assert [step.body["kind"] for step in keys.loaded] == ["awskms"]
    authority = tmp_path / "state/brokers/hosts.pub"
    with sshd(tmp_path / "sshd", authority, tmp_path / "lists/krl") as server:
        lab = Lab(Host(broker))  # type: ignore[arg-type]

        async def login(values: Mapping[str, str]) -> int:
            done = await asyncio.to_thread(server.login, values, "true", folder=tmp_path / "client")
            return done.returncode

        lease, credential = await lab.issue()
        assert await login(credential.values) == 0
        account.stop()
        try:
            with pytest.raises(NotMintedError, match="nothing can be signed"):
                await lab.issue()
        finally:
            account.go_on()
        assert keys.health() is not None
        await keys.look()
        assert keys.health() is None
        await lab.revoke(lease, credential)
        assert await login(credential.values) != 0
        _, credential = await lab.issue()
        assert await login(credential.values) == 0


class Host:
    """What the suite's Lab asks of a target."""

    installation = INSTALLATION
    names_are_ours = True
    grant: Mapping[str, Any] = {"principals": [ACCOUNT]}

    def __init__(self, broker: SshBroker) -> None:
        self.broker = broker


@pytest.fixture
def kms(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kms]:
    log_in(monkeypatch)
    with Kms().running() as server:
        yield server


@pytest.fixture
def place(kms: Kms, tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.config.write_text(
        f"{place.config.read_text()}[limits]\npublish_grace_seconds = 1.5\n"
        f"[keys]\nlog = {json.dumps(kms.uri())}\n"
    )
    return place


def made(place: Place) -> str:
    done = command("keys", "make", "log", "--json", "--config", place.config)
    assert done.returncode == 0, done.stderr
    vkey: str = json.loads(done.stdout)["public"]
    return vkey


@pytest.mark.timeout(300)  # as below
def test_the_logs_key_is_made_once_and_a_start_waits_for_no_kms(kms: Kms, place: Place):
    def refused(*words: str) -> str:
        done = command(*words, "--config", place.config)
        assert done.returncode == 2, done.stderr
        return done.stderr

    assert "there is no key at `awskms://" in refused("up")
    vkey = made(place)
    assert "already" in refused("keys", "make", "log")
    looked = command("doctor", "--json", "--config", place.config)
    assert vkey in looked.stdout, looked.stdout + looked.stderr
    kms.away = True
    assert "look at the way there" in refused("up")
    kms.hangs = True
    assert "KMS at `http" in refused("up")
    kms.hangs = False
    kms.goes_on.set()


@pytest.mark.timeout(300)  # it starts ten processes
async def test_a_remit_whose_logs_key_lies_in_a_kms(kms: Kms, place: Place, tmp_path: Path):
    vkey = made(place)
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
            kms.hangs = True
            async with asyncio.timeout(60):
                number = 0
                while await acts(f"while {number}"):
                    number += 1
            assert "the log cannot be published" in told[-1]
            assert not await acts("gone")
            assert "KMS at `http://127.0.0.1" in (await ready(place, 503))["evidence"]
            kms.hangs = False
            kms.goes_on.set()
            await ready(place, 200)
            assert await acts("after")
        assert "gone" not in place.drafts()
        assert "after" in place.drafts()
        place.control.post("tasks", task, "complete")

    with place.up():  # the same key after a restart, and the same log
        assert place.control.get("status")["log"]["vkey"] == vkey
        pack = tmp_path / "task.pack"
        exported = command("evidence", "export", task, "-o", pack, "--config", place.config)
        assert exported.returncode == 0, exported.stderr
    verified = command("evidence", "verify", pack, "--vkey", vkey)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert not (tmp_path / "s" / "keys" / "log.key").exists()
    assert holding(SECRET_KEY, tmp_path) == []
    assert SECRET_KEY not in "".join(told)
    assert ACCESS_KEY not in "".join(told)


def holding(secret: str, folder: Path) -> list[Path]:
    files = [each for each in folder.rglob("*") if each.is_file()]
    assert len(files) > 10
    return [each for each in files if secret.encode() in each.read_bytes()]
