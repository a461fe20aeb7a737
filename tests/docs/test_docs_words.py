"""What pages, messages and examples say in passing is as true as what they show."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest
from cyclopts import App

from remit.app.config import Config, parse
from remit.cli import reference
from remit.cli.common import MEANINGS, Exit
from remit.cli.main import COMMANDS, EPILOGUE, app
from remit.tasks.templates import parse_templates

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "examples" / "README.md",
]
SOURCES = sorted((ROOT / "src" / "remit").rglob("*.py"))
_INLINE = re.compile(r"`{1,2}remit ([a-z][^`\n]*)`{1,2}")
_TOML = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)
_ANCHOR = re.compile(r"\]\(([^)#\s]*)#([^)\s]+)\)")
_WORD = re.compile(r"[a-z][a-z-]*\Z")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def missing(text: str) -> str | None:
    """Return the first word or option of ``remit <text>`` that does not exist, or None."""
    at: App = app
    words = text.split()
    while words and _WORD.match(words[0]) and any(not n.startswith("-") for n in at):
        word = words.pop(0)
        if word not in set(at):
            return word
        at = at[word]
    options = {word.partition("=")[0] for word in words[: _own(words)] if word.startswith("-")}
    arguments = at.assemble_argument_collection() if at.default_command else []
    known = {"--help", *(name for argument in arguments for name in argument.names)}
    return next(iter(sorted(options - known)), None)


def _own(words: list[str]) -> int:
    return words.index("--") if "--" in words else len(words)


def test_what_does_not_exist_is_found():
    assert missing("agent promote NAME") == "promote"
    assert missing("fly") == "fly"
    assert missing("agent register NAME --owners x") == "--owners"
    assert missing("agent register NAME --owner x --json") is None
    assert missing("run --agent NAME -- program --option") is None


@pytest.mark.parametrize("path", [*PAGES, *SOURCES], ids=name_of)
def test_every_command_named_in_passing_exists(path: Path):
    for text in _INLINE.findall(path.read_text()):
        assert missing(text) is None, f"`remit {text}`: there is no `{missing(text)}`"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_toml_block_is_a_valid_configuration_or_template_or_mandate(path: Path):
    sections = {field.encode_name for field in msgspec.structs.fields(Config)}
    for block in _TOML.findall(path.read_text()):
        document = tomllib.loads(block)
        if document.keys() <= sections:
            parse(document, path.name)
        elif "template" not in document:
            named = re.match(r"# \S*?([a-z0-9._-]+)\.toml\n", block)
            parse_templates({f"templates/{named[1] if named else 'x'}.toml": block.encode()})


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_link_into_a_page_meets_a_heading(path: Path):
    for target, anchor in _ANCHOR.findall(path.read_text()):
        if "://" in target:
            continue
        page = path.parent / target if target else path
        headings = re.findall(r"(?m)^#+ (.*)$", page.read_text())
        slugs = {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
        assert anchor in slugs, f"{target}#{anchor}"


def test_every_exit_status_is_explained_in_the_help_and_in_the_readme():
    readme = " ".join((ROOT / "README.md").read_text().split()).partition("Exit status:")[2]
    for status in Exit:
        for text in (EPILOGUE, readme):
            assert re.search(rf"\b{int(status)}\b", text), status


REFERENCE = ROOT / "docs" / "cli.md"


def test_every_command_is_shown_on_a_page_that_says_what_it_is_for():
    everything = "\n".join(page.read_text() for page in PAGES if page != REFERENCE)
    assert [name for name in COMMANDS if not re.search(rf"\bremit {name}\b", everything)] == []


def test_the_page_of_the_command_line_is_what_the_commands_say():
    assert REFERENCE.read_text() == reference.page(), "make docs"


def test_the_page_of_the_command_line_has_every_command_and_every_exit_status():
    said = REFERENCE.read_text()
    for name in COMMANDS:
        for sub in [each for each in app[name] if not each.startswith("-")]:
            assert f"\n## remit {name} {sub}\n" in said
        assert f"\n## remit {name}\n" in said
    rows = dict(re.findall(r"(?m)^\| (\d+) \| (.+) \|$", said))
    assert rows == {str(int(status)): meaning for status, meaning in MEANINGS.items()}
    assert set(MEANINGS) == set(Exit)


def test_no_source_and_no_page_names_a_path_of_one_machine():
    for path in [*PAGES, *SOURCES]:
        assert not re.search(r"/work/|/root/|/home/(?!\w*example)", path.read_text()), path
