"""The page of the `sql` upstream: its configuration and its capability are read."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from remit.app.config import load
from remit.app.options import catalogued, upstreams
from remit.tasks.schemas import compile_schema
from remit.tasks.templates import parse_templates

PAGE = (Path(__file__).resolve().parents[2] / "docs/sql.md").read_text()


def test_the_configuration_and_the_capability_on_the_page_are_read(tmp_path: Path):
    shown, capability = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "remit.toml").write_text(shown)
    loaded = load(tmp_path / "remit.toml")
    [upstream] = upstreams(loaded)
    assert upstream.sql is not None
    assert upstream.sql.default_schema == "crm"
    (template,) = parse_templates({"templates/crm.ask.toml": capability.encode()}).values()
    assert catalogued(loaded)["crm"].environment in template.environments
    [bound] = tomllib.loads(capability)["capability"]
    for schema in bound["args"].values():
        compile_schema(schema)
    assert not compile_schema(bound["args"]["reads"]).is_valid(["crm.customer.card"])
    assert compile_schema(bound["args"]["reads"]).is_valid(["crm.customer.id"])


@pytest.mark.parametrize(
    ("said", "changes"), [("", False), ("side_effects = true", True), ("trusted = true", False)]
)
def test_a_query_changes_nothing_unless_the_operator_says_so(
    tmp_path: Path, said: str, changes: bool
):
    shown, _ = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    own = f"[upstream.crm.tool.query]\n{said}\n" if said else ""
    (tmp_path / "remit.toml").write_text(shown + own)
    tools = catalogued(load(tmp_path / "remit.toml"))["crm"].tools
    assert tools["query"].side_effects is changes
    assert "execute" not in tools
