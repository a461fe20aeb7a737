"""`mcp-server-git` behind a real Remit: the code agent commits on its branch, and main stays."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import House, effect, house, refused_by, words
from processes import ROOT

pytestmark = pytest.mark.real

EXAMPLES = ROOT / "examples"
TEMPLATE = "code.branch"
AGENT = "code-agent"
GIT = (sys.executable, "-m", "mcp_server_git")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("code")
    maker = EXAMPLES / "quickstart" / "repository.py"
    subprocess.run([sys.executable, maker, folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def code(folder: Path) -> Iterator[House]:
    upstreams = "\n".join(
        f"""[upstream.{name}]
command = {json.dumps([*GIT, "--repository", str(folder / repository)])}
environment = "{environment}"
"""
        for name, repository, environment in (
            ("git", "code", "dev"),
            ("git_prod", "production", "prod"),
        )
    )
    with house(folder, upstreams, EXAMPLES / "quickstart" / "templates") as running:
        running.register(AGENT, TEMPLATE)
        yield running


def git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=repository, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_code_agent_commits_on_its_branch_and_main_stays(code: House, folder: Path):
    repository, production = folder / "code", folder / "production"
    main, live = git(repository, "rev-parse", "main"), git(production, "rev-parse", "HEAD")
    task = code.open(TEMPLATE, AGENT)
    done = code.as_agent(
        AGENT,
        *(sys.executable, EXAMPLES / "agents" / "code_agent.py"),
        env={
            "REMIT_TASK": task["task_token"],
            "REMIT_REPOSITORY": str(repository),
            "REMIT_PRODUCTION": str(production),
        },
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["tool"], line["effect"]) for line in lines] == [
        ("git/git_status", "permit"),
        ("git/git_log", "permit"),
        ("git/git_create_branch", "permit"),
        ("git/git_checkout", "permit"),
        ("git/git_add", "permit"),
        ("git/git_commit", "permit"),
        ("git/git_checkout", "deny"),
        ("git_prod/git_status", "deny"),
        ("git/git_reset", "deny"),
        ("git/git_log", "permit"),
    ]
    assert all((line["reason"] is None) == (line["effect"] == "permit") for line in lines)
    assert git(repository, "rev-parse", "main") == main
    assert git(production, "rev-parse", "HEAD") == live
    assert git(repository, "rev-parse", "--abbrev-ref", "HEAD") == "agent/fix-typo"
    assert git(repository, "log", "-1", "--format=%s") == "Correct a typo in the README"
    assert "Run the server" in (repository / "README.md").read_text()

    bounds, environment, outside = refused_by(code.records(task["id"]))
    assert "argument_out_of_bounds" in bounds
    assert "wrong_environment" in environment
    assert "outside_mandate" in outside


async def test_a_mandate_that_names_one_repository_admits_no_other(code: House, folder: Path):
    repository, production = str(folder / "code"), str(folder / "production")
    narrowed = {"tool": "git/git_status", "args": {"repo_path": {"const": repository}}}
    task = code.open(TEMPLATE, AGENT, purpose="Read one repository", capability=[narrowed])
    async with code.client("git", AGENT, task["task_token"]) as client:
        listed = [tool.name for tool in (await client.list_tools()).tools]
        assert [name for name in listed if not name.startswith("remit_")] == ["git_status"]
        here = await client.call_tool("git_status", {"repo_path": repository})
        assert effect(here) == "permit"
        there = await client.call_tool("git_status", {"repo_path": production})
        assert effect(there) == "deny"
        assert "argument `repo_path`" in words(there)
        missing = await client.call_tool("git_status", {})
        assert effect(missing) == "deny"


async def test_a_path_that_climbs_out_of_the_repository_is_refused(code: House, folder: Path):
    task = code.open(TEMPLATE, AGENT)
    async with code.client("git", AGENT, task["task_token"]) as client:
        for hostile in ("../production/README.md", "-u", "--all", "/etc/passwd", ".git/config"):
            result = await client.call_tool(
                "git_add", {"repo_path": str(folder / "code"), "files": [hostile]}
            )
            assert effect(result) == "deny", hostile


async def test_the_way_round_by_the_path_of_production_ends_at_the_upstream(
    code: House, folder: Path
):
    """A template that leaves ``repo_path`` open leaves it to ``--repository`` to hold the line."""
    task = code.open(TEMPLATE, AGENT)
    async with code.client("git", AGENT, task["task_token"]) as client:
        result = await client.call_tool("git_status", {"repo_path": str(folder / "production")})
    assert effect(result) == "permit"
    assert result.is_error
    assert "outside" in words(result)
