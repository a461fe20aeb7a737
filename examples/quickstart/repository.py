"""Make the throw-away repositories that the quickstart's code agent works on.

    python repository.py FOLDER

`FOLDER/code` has a `main` with two commits and is checked out on `agent/start`: as the agent may
check out nothing but `agent/…`, it never stands on `main`, so that it cannot commit there either.
`FOLDER/production` is a clone of it. Prints their paths as one JSON line. What exists is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path

README = """# Trail map

A small site that draws hiking trails.

Run teh server with `python -m http.server`, then open the page.
"""
PAGE = "<!doctype html>\n<title>Trail map</title>\n<h1>Trail map</h1>\n"
WHO = {
    "GIT_AUTHOR_NAME": "Robin Doe",
    "GIT_AUTHOR_EMAIL": "robin@example.com",
    "GIT_COMMITTER_NAME": "Robin Doe",
    "GIT_COMMITTER_EMAIL": "robin@example.com",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
}


def git(*arguments: str | Path, cwd: Path) -> None:
    """Run one git command, saying nothing unless it fails."""
    command = ["git", *map(str, arguments)]
    subprocess.run(command, cwd=cwd, env={**os.environ, **WHO}, check=True, capture_output=True)  # noqa: S603 - fixed words


def make(folder: Path) -> dict[str, str]:
    """Create both repositories below ``folder`` and return their paths."""
    code, production = folder.resolve() / "code", folder.resolve() / "production"
    if not code.exists():
        code.mkdir(parents=True)
        git("init", "--quiet", "--initial-branch=main", cwd=code)
        git("config", "user.name", "Code agent", cwd=code)
        git("config", "user.email", "code-agent@example.com", cwd=code)
        (code / "README.md").write_text(README)
        git("add", "README.md", cwd=code)
        git("commit", "--quiet", "--message=Describe the site", cwd=code)
        (code / "index.html").write_text(PAGE)
        git("add", "index.html", cwd=code)
        git("commit", "--quiet", "--message=Add the first page", cwd=code)
        git("checkout", "--quiet", "-b", "agent/start", cwd=code)
    if not production.exists():
        git("clone", "--quiet", "--branch=main", code, production, cwd=folder)
    return {"code": str(code), "production": str(production)}


def main() -> None:
    """Make them in the folder that the command line names."""
    parser = argparse.ArgumentParser(description="Make the quickstart's throw-away repositories.")
    parser.add_argument("folder", type=Path)
    print(json.dumps(make(parser.parse_args().folder)))


if __name__ == "__main__":
    main()
