"""The pages: commands that exist, links that lead somewhere, nothing of one machine."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from cyclopts import CycloptsError

from remit.cli.main import EPILOGUE, app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "examples" / "README.md",
]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
_FENCE = re.compile(r"^```(?:console|sh|bash|shell)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def commands(page: Path) -> list[str]:
    """Return every `remit …` line of a page's shell blocks, continued lines joined."""
    lines = []
    for block in _FENCE.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            text = line.strip().removeprefix("$ ")
            if text.startswith("remit "):
                lines.append(re.split(r"\s[|>&]|\s#", text)[0])
    return lines


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_on_a_page_exists_with_its_options(page: Path):
    for line in commands(page):
        tokens = shlex.split(line)[1:]
        try:
            app.parse_args(tokens, exit_on_error=False, print_error=False)
        except CycloptsError as error:
            pytest.fail(f"`{line}`: {error}")


def test_the_readme_shows_commands():
    assert len(commands(ROOT / "README.md")) > 10


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_link_between_pages_leads_somewhere(page: Path):
    for link in _LINK.findall(page.read_text()):
        if "://" not in link and not link.startswith("mailto:"):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_no_page_names_a_path_of_one_machine(page: Path):
    assert not re.search(r"/work/|/root/|/home/(?!\w*example)", page.read_text())


def test_the_readme_documents_every_exit_status():
    readme = " ".join((ROOT / "README.md").read_text().split())
    for number in re.findall(r"\b(\d+) ", EPILOGUE.partition("Exit status:")[2]):
        assert re.search(rf"\b{number}\b", readme.partition("Exit status:")[2])
