"""The page of the broker `openbao`: its configuration is read, its policy is what the tests use."""

from __future__ import annotations

import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from openbao import REMIT_POLICY

from remit.credentials.brokers.openbao import OpenBaoBroker
from remit.credentials.brokers.openbao_options import Grant, Options
from remit.credentials.port import Surroundings

PAGE = (Path(__file__).resolve().parents[2] / "docs/brokers/openbao.md").read_text()


def test_the_policy_on_the_page_is_the_one_that_the_broker_is_tested_with():
    assert f"```hcl\n{REMIT_POLICY}```" in PAGE


def test_the_configuration_on_the_page_makes_a_broker(tmp_path: Path):
    (block,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    document = tomllib.loads(block)
    table = {key: value for key, value in document["broker"]["bao"].items() if key != "kind"}
    surroundings = Surroundings(
        http=None,  # type: ignore[arg-type]
        clock=lambda: datetime.now(UTC),
        signer=None,  # type: ignore[arg-type]
        installation="remit-0a1b2c3d",
        state=tmp_path,
        path=Path,
    )
    broker = OpenBaoBroker("bao", table, surroundings)
    broker.check(document["upstream"]["crm"]["credential"]["grant"])


def test_every_option_and_grant_key_has_its_row():
    rows = "\n".join(line for line in PAGE.splitlines() if line.startswith("| `"))
    for struct in (Options, Grant):
        for field in msgspec.structs.fields(struct):
            assert re.search(rf"^\| [^|]*`{field.encode_name}`", rows, re.MULTILINE), field.name
