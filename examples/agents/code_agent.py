"""A code agent that may commit on a branch of its own, but not touch `main`, nor production.

Its task is "fix the typo in the README on a branch". It has the working tree at REMIT_REPOSITORY,
and git only through Remit. REMIT_PRODUCTION is where the repository that runs in production lies.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from governed import Agent

BRANCH = "agent/fix-typo"


def correct(readme: Path) -> None:
    """Do the work itself, in the working tree."""
    readme.write_text(readme.read_text().replace("teh", "the"))


async def work() -> None:
    """Branch, commit, overstep, read the refusals, and finish."""
    repository = os.environ["REMIT_REPOSITORY"]
    production = os.environ["REMIT_PRODUCTION"]
    async with Agent("code-agent").working("git", "git_prod") as agent:
        await agent.call("git/git_status", repo_path=repository)
        await agent.call("git/git_log", repo_path=repository, max_count=3)
        await agent.call(
            "git/git_create_branch", repo_path=repository, branch_name=BRANCH, base_branch="main"
        )
        await agent.call("git/git_checkout", repo_path=repository, branch_name=BRANCH)

        correct(Path(repository, "README.md"))
        await agent.call("git/git_add", repo_path=repository, files=["README.md"])
        await agent.call(
            "git/git_commit", repo_path=repository, message="Correct a typo in the README"
        )

        # An argument out of bounds: only branches under agent/ may be checked out.
        await agent.call("git/git_checkout", repo_path=repository, branch_name="main")

        # The wrong environment: this agent lives in development.
        await agent.call("git_prod/git_status", repo_path=production)

        # Outside the mandate: nobody asked for a reset.
        await agent.call("git/git_reset", repo_path=repository)

        await agent.call("git/git_log", repo_path=repository, max_count=1)


if __name__ == "__main__":
    asyncio.run(work())
