"""The page of the broker `github`: its configuration is read, and every key has its row."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from remit.app.brokers import open_brokers
from remit.app.config import load
from remit.credentials.brokers.github.options import Grant, Options
from remit.credentials.port import Surroundings

PAGE = (Path(__file__).resolve().parents[2] / "docs/brokers/github.md").read_text()


def test_the_configuration_on_the_page_makes_a_broker(tmp_path: Path):
    (shown,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "remit.toml").write_text(shown)
    (tmp_path / "github-app.pem").touch(mode=0o600)
    (tmp_path / "github-app.pem").write_text("-----BEGIN RSA PRIVATE KEY-----")
    surroundings = Surroundings(
        http=None,  # type: ignore[arg-type]
        clock=lambda: datetime.now(UTC),
        signer=None,  # type: ignore[arg-type]
        installation="remit-0a1b2c3d",
        state=tmp_path,
        path=lambda text: tmp_path / text,
    )
    made = open_brokers(load(tmp_path / "remit.toml"), surroundings)
    assert made.bindings["forge"].broker is made.by_name["github"]


def test_every_option_and_grant_key_has_its_row():
    rows = "\n".join(line for line in PAGE.splitlines() if line.startswith("| `"))
    for struct in (Options, Grant):
        for field in msgspec.structs.fields(struct):
            if field.encode_name != "private_key":
                assert re.search(rf"^\| [^|]*`{field.encode_name}`", rows, re.MULTILINE), field.name
