"""The page of the broker `kubernetes`: its configuration is read, its role names what is asked."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import yaml

from remit.app.brokers import open_brokers
from remit.app.config import load
from remit.credentials.brokers.kubernetes.options import Grant, Options
from remit.credentials.port import Surroundings

PAGE = (Path(__file__).resolve().parents[2] / "docs/brokers/kubernetes.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_configuration_on_the_page_makes_a_broker(tmp_path: Path):
    (shown,) = blocks("toml")
    (tmp_path / "remit.toml").write_text(shown)
    (tmp_path / "kube.token").touch(mode=0o600)
    (tmp_path / "kube.token").write_text("token")
    surroundings = Surroundings(
        http=None,  # type: ignore[arg-type]
        clock=lambda: datetime.now(UTC),
        signer=None,  # type: ignore[arg-type]
        installation="remit-0a1b2c3d",
        state=tmp_path,
        path=lambda text: tmp_path / text,
    )
    made = open_brokers(load(tmp_path / "remit.toml"), surroundings)
    assert made.bindings["cluster"].broker is made.by_name["kube"]


def test_the_roles_on_the_page_allow_what_the_broker_asks_and_nothing_else():
    allowed = {
        f"{verb} {resource}"
        for role in yaml.safe_load_all(blocks("yaml")[0])
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert allowed == {
        "create secrets",
        "get secrets",
        "list secrets",
        "delete secrets",
        "create serviceaccounts/token",
        "create tokenreviews",
    }


def test_every_option_and_grant_key_has_its_row():
    rows = "\n".join(line for line in PAGE.splitlines() if line.startswith("| `"))
    for struct in (Options, Grant):
        for field in msgspec.structs.fields(struct):
            if field.encode_name != "token":
                assert re.search(rf"^\| [^|]*`{field.encode_name}`", rows, re.MULTILINE), field.name
