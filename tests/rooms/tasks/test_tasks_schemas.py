"""What a schema may cost: an agent may write one, and compiling and matching must stay cheap."""

from __future__ import annotations

from typing import Any

import pytest

from remit.model.errors import InputError
from remit.tasks import schemas
from remit.tasks.request import TaskRequest
from remit.tasks.schemas import MAX_ASKED_PATTERNS, compile_schema, patterns_in

DEAR = r"\pL{20}"
"""Seven characters that take most of a megabyte once compiled."""


def asked(*schema: Any) -> TaskRequest:
    """Return a request for one capability with an argument for each schema."""
    args = {f"x{place}": each for place, each in enumerate(schema)}
    return TaskRequest.parse({"template": "t", "capability": [{"tool": "a/b", "args": args}]})


MANY = [{"pattern": f"{place}{DEAR}"} for place in range(MAX_ASKED_PATTERNS + 1)]


@pytest.mark.parametrize(
    "schema",
    [
        [{"allOf": MANY}],
        MANY,
        [{"patternProperties": {each["pattern"]: True for each in MANY}}],
    ],
    ids=["one schema", "many arguments", "names of members"],
)
def test_a_request_has_few_patterns_and_not_one_more_is_compiled(schema: list[Any]) -> None:
    before = len(schemas._compiled)
    with pytest.raises(InputError, match=f"more than {MAX_ASKED_PATTERNS} patterns"):
        asked(*schema)
    assert len(schemas._compiled) == before


def test_a_requests_pattern_is_small_once_compiled() -> None:
    with pytest.raises(InputError, match=r"look-around.*or too large"):
        asked({"pattern": DEAR})
    assert compile_schema({"pattern": DEAR}).is_valid("a" * 20)  # a template's may be larger
    assert asked({"pattern": r"^[a-zA-Z0-9._-]{1,255}$"}, {"pattern": r"^\p{L}[\p{L} '-]*$"})


def test_a_schema_nested_without_end_is_counted_all_the_same() -> None:
    nested: Any = {"pattern": "a"}
    for _ in range(100_000):
        nested = {"not": nested}
    assert patterns_in(nested) == 1
    while isinstance(nested, dict):  # taken apart from outside: its own end would recurse
        nested = nested.get("not")


def test_what_is_kept_is_bounded_by_its_patterns() -> None:
    for place in range(700):
        compile_schema({"allOf": [{"pattern": f"{place}a"}, {"pattern": f"{place}b"}]})
    assert sum(each.patterns for each in schemas._compiled.values()) <= schemas.KEPT_PATTERNS
    assert compile_schema({"pattern": "699a"}).is_valid("699a")
