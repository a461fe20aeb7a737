"""The pages of the brokers `jwt` and `oauth`: their configuration is read, every setting has its row."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from remit.app.brokers import open_brokers
from remit.app.config import load
from remit.credentials.brokers.jwt import broker as jwt
from remit.credentials.brokers.oauth import options as oauth_options
from remit.credentials.port import Surroundings

PAGES = Path(__file__).resolve().parents[2] / "docs/brokers"
SETTINGS = {
    "jwt": (jwt._Options, jwt._Grant),
    "oauth": (oauth_options.Options, oauth_options.Grant),
}


@pytest.mark.parametrize("kind", sorted(SETTINGS))
def test_the_configuration_on_the_page_makes_its_broker(tmp_path: Path, kind: str):
    text = (PAGES / f"{kind}.md").read_text()
    (block,) = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "remit.toml").write_text(block)
    loaded = load(tmp_path / "remit.toml")
    surroundings = Surroundings(
        http=None,  # type: ignore[arg-type]
        clock=lambda: None,  # type: ignore[arg-type,return-value]
        signer=None,  # type: ignore[arg-type]
        installation="remit-0a1b2c3d",
        state=tmp_path,
        path=Path,
    )
    opened = open_brokers(loaded, surroundings)
    assert {type(each).__name__.lower() for each in opened.by_name.values()} == {f"{kind}broker"}
    assert opened.bindings["crm"].broker in opened.by_name.values()


@pytest.mark.parametrize("kind", sorted(SETTINGS))
def test_every_option_and_grant_key_has_its_row(kind: str):
    lines = (PAGES / f"{kind}.md").read_text().splitlines()
    rows = "\n".join(line for line in lines if line.startswith("| `"))
    for struct in SETTINGS[kind]:
        for each in msgspec.structs.fields(struct):
            assert re.search(rf"^\| [^|]*`{each.encode_name}`", rows, re.MULTILINE), each.name
