"""Every promise names tests that exist, and what is missing of it is said to users too."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).resolve().parent


def _promises() -> ModuleType:
    spec = importlib.util.spec_from_file_location("promises", HERE / "promises.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["promises"] = module
    spec.loader.exec_module(module)
    return module


PROMISES = _promises().PROMISES


def asserting_tests(path: Path) -> list[str]:
    """Return the tests of a file, if the file holds an assertion or an expected error at all."""
    tree = ast.parse(path.read_text())
    nodes = list(ast.walk(tree))
    asserts = any(isinstance(node, ast.Assert) for node in nodes) or "pytest.raises" in (
        ast.unparse(tree)
    )
    return [
        node.name
        for node in nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and asserts
    ]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.id)
def test_what_holds_a_promise_is_there_and_can_fail(promise):  # noqa: ANN001 - loaded above
    assert promise.held
    assert len(set(promise.held)) == len(promise.held)
    for name in promise.held:
        file, _, test = name.partition("::")
        tests = asserting_tests(HERE / file)
        assert tests, name
        assert not test or test in tests, name


def test_the_fourteen_promises_are_listed_once_each():
    assert [promise.id for promise in PROMISES] == [f"P{number}" for number in range(1, 15)]


@pytest.mark.parametrize("promise", [p for p in PROMISES if p.missing], ids=lambda p: p.id)
def test_what_is_missing_of_a_promise_is_said_to_users(promise):  # noqa: ANN001 - loaded above
    limits = (HERE.parent / "docs" / "limitations.md").read_text().lower()
    assert promise.missing.lower() in limits


def test_every_promise_that_the_threat_model_names_exists():

    named = set(re.findall(r"\bP\d+\b", (HERE.parent / "docs" / "threat-model.md").read_text()))
    assert named <= {promise.id for promise in PROMISES}


def test_every_test_of_a_story_a_crash_a_property_or_an_outsiders_case_holds_a_promise():
    folders = ("story", "crash", "properties", "external")
    files = {
        f"{folder}/{path.name}" for folder in folders for path in (HERE / folder).glob("test_*.py")
    }
    held = {name.partition("::")[0] for promise in PROMISES for name in promise.held}
    assert files - held == set()
