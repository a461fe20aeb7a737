"""The page of the broker `aws`: its configuration is read, its policies are what the tests use."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from aws import REVOKER, WEB

from remit.app.brokers import open_brokers
from remit.app.config import load
from remit.credentials.brokers.aws.options import Grant, Options
from remit.credentials.port import Surroundings

PAGE = (Path(__file__).resolve().parents[2] / "docs/brokers/aws.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_policies_on_the_page_are_those_that_the_broker_is_tested_with():
    trust, revoker = (json.loads(block) for block in blocks("json"))
    assert trust["Statement"] == [WEB]
    assert revoker == REVOKER


def test_the_configuration_on_the_page_makes_a_broker(tmp_path: Path):
    (shown,) = blocks("toml")
    (tmp_path / "remit.toml").write_text(shown)
    surroundings = Surroundings(
        http=None,  # type: ignore[arg-type]
        clock=lambda: datetime.now(UTC),
        signer=None,  # type: ignore[arg-type]
        installation="remit-0a1b2c3d",
        state=tmp_path,
        path=lambda text: tmp_path / text,
    )
    made = open_brokers(load(tmp_path / "remit.toml"), surroundings)
    assert made.bindings["reports"].broker is made.by_name["aws"]


def test_every_option_and_grant_key_has_its_row():
    rows = "\n".join(line for line in PAGE.splitlines() if line.startswith("| `"))
    for struct in (Options, Grant):
        for field in msgspec.structs.fields(struct):
            if field.encode_name != "secret_access_key":
                assert re.search(rf"^\| [^|]*`{field.encode_name}`", rows, re.MULTILINE), field.name
