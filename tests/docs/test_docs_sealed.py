"""The page of the broker `sealed`: its configuration is read, and every key has its row."""

from __future__ import annotations

import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from remit.credentials.brokers.sealed.broker import Grant, Options, SealedBroker
from remit.credentials.port import Surroundings
from remit.credentials.sealed_keys import SealedKeys
from remit.credentials.sealing import KeySeal
from remit.testing.evidence import MemoryRecorder

PAGE = (Path(__file__).resolve().parents[2] / "docs/brokers/sealed.md").read_text()


def test_the_configuration_on_the_page_makes_a_broker_that_watches_its_key(tmp_path: Path):
    (block,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    document = tomllib.loads(block)
    table = {key: value for key, value in document["broker"]["old-keys"].items() if key != "kind"}
    keys = SealedKeys(
        folder=tmp_path / "sealed",
        seal=KeySeal(bytes(32)),
        recorder=MemoryRecorder(),
        clock=lambda: datetime.now(UTC),
    )
    surroundings = Surroundings(
        http=None,  # type: ignore[arg-type]
        clock=lambda: datetime.now(UTC),
        signer=None,  # type: ignore[arg-type]
        installation="remit-0a1b2c3d",
        state=tmp_path,
        path=Path,
        sealed=keys,
    )
    credential = document["upstream"]["crm"]["credential"]
    SealedBroker("old-keys", table, surroundings).check(credential["grant"])
    assert keys.limits["crm"].days == 30
    assert credential["scope"] == "call"


def test_every_option_and_grant_key_has_its_row():
    rows = "\n".join(line for line in PAGE.splitlines() if line.startswith("| `"))
    for struct in (Options, Grant):
        for field in msgspec.structs.fields(struct):
            assert re.search(rf"^\| [^|]*`{field.encode_name}`", rows, re.MULTILINE), field.name
