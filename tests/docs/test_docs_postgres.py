"""The page of the broker `postgres`: its configuration is read, its SQL is what the tests run."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("psycopg")

from postgres_crm import ACCOUNT, surroundings

from remit.app.brokers import open_brokers
from remit.app.config import load
from remit.credentials.brokers.postgres_admin import Options
from remit.credentials.brokers.postgres_grants import Grant

PAGE = (Path(__file__).resolve().parents[2] / "docs/brokers/postgres.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_configuration_on_the_page_makes_a_broker(tmp_path: Path):
    [shown] = blocks("toml")
    (tmp_path / "remit.toml").write_text(shown)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "crm-db").write_text("word")
    (tmp_path / "secrets" / "crm-db").chmod(0o600)
    made = open_brokers(load(tmp_path / "remit.toml"), surroundings(tmp_path))
    assert made.bindings["crm"].broker is made.by_name["crm-db"]


def test_the_account_on_the_page_is_the_one_that_the_real_tests_use():
    assert ACCOUNT.strip() in [block.strip() for block in blocks("sql")]


@pytest.mark.parametrize("struct", [Options, Grant])
def test_every_option_and_grant_key_is_on_the_page(struct: type[msgspec.Struct]):
    for field in msgspec.structs.fields(struct):
        assert f"`{field.name}`" in PAGE or f"`{field.name} = " in PAGE, field.name
