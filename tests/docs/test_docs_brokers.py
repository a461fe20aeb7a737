"""Every broker has a page, and every page a broker; the index says of each what the code says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from remit.app.config import parse

ROOT = Path(__file__).resolve().parents[2]
PAGES = {page.stem: page for page in (ROOT / "docs/brokers").glob("*.md") if page.stem != "README"}
KINDS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][
    "remit.credential_brokers"
]
BLOCK = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_every_kind_has_a_page_and_a_row_in_the_index():
    assert PAGES.keys() == KINDS.keys()
    index = (ROOT / "docs/brokers/README.md").read_text()
    rows = re.findall(r"^\| \[`(\w+)`\]\((\w+)\.md\) \|", index, re.MULTILINE)
    assert rows == [(kind, kind) for kind in sorted(KINDS)]


@pytest.mark.parametrize("kind", sorted(PAGES))
def test_the_configuration_on_a_page_is_one_that_remit_reads(kind: str):
    blocks = BLOCK.findall(PAGES[kind].read_text())
    assert blocks
    shown = [parse(tomllib.loads(block), kind) for block in blocks if "kind = " in block]
    assert any(table["kind"] == kind for config in shown for table in config.brokers.values()), (
        "a page shows its own broker"
    )
