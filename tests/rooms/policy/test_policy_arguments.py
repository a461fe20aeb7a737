from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.model.errors import InputError
from remit.policy import arguments
from remit.policy.arguments import flatten

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("a/~0_", max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)


def test_a_scalar_goes_by_its_name_as_text_and_by_its_type():
    flat = flatten({"s": "x", "b": True, "n": None, "i": 7, "f": 1.5})
    assert flat.text == {"s": "x", "b": "true", "n": "null", "i": "7", "f": "1.5"}
    assert flat.types == {"s": "string", "b": "boolean", "n": "null", "i": "integer", "f": "number"}
    assert flat.numbers == {"i": 7}
    assert flat.decimals == {"i": "7.0000", "f": "1.5000"}


def test_what_is_nested_goes_by_its_pointer_and_the_whole_by_its_name():
    flat = flatten({"filter": {"owner": "ada", "tags": ["a", {"x/y": 1}]}})
    assert flat.text["/filter/owner"] == "ada"
    assert flat.text["/filter/tags/0"] == "a"
    assert flat.text["/filter/tags/1/x~1y"] == "1"
    assert flat.text["filter"] == '{"owner":"ada","tags":["a",{"x/y":1}]}'
    assert flat.types["/filter/tags"] == "array"


def test_an_argument_named_like_a_pointer_cannot_pass_for_another_ones_inside():
    flat = flatten({"/filter/owner": "mallory", "filter": {"owner": "ada"}})
    assert flat.text["/filter/owner"] == "ada"
    assert flat.text["/~1filter~1owner"] == "mallory"


def test_a_whole_number_written_as_a_fraction_is_a_number_all_the_same():
    assert flatten({"amount": 100.0}).numbers == {"amount": 100}
    assert flatten({"amount": 1e3}).numbers == {"amount": 1000}


def test_a_number_that_is_not_exact_in_a_view_is_not_in_it():
    flat = flatten({"a": 0.00001, "b": 1e300})
    assert flat.numbers == {}
    assert flat.decimals == {}
    assert set(flat.text) == {"a", "b"}


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), 2**53, object(), {"x": object()}, ["\ud800"], {"\ud800": 1}],
)
def test_what_has_no_one_reading_is_refused(value: Any):
    with pytest.raises(InputError):
        flatten({"x": value})


def test_more_than_policy_can_be_shown_is_refused(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match="values"):
        flatten({"x": list(range(arguments.MAX_VALUES))})
    deep: Any = 1
    for _ in range(arguments.MAX_DEPTH):
        deep = [deep]
    with pytest.raises(InputError, match="deeper"):
        flatten({"x": deep})
    monkeypatch.setattr(arguments, "MAX_TEXT_BYTES", 10)
    with pytest.raises(InputError, match="text"):
        flatten({"x": "y" * 11})


def _leaves(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(_leaves, value.values()))
    if isinstance(value, list):
        return 1 + sum(map(_leaves, value))
    return 1


@given(st.dictionaries(st.text("a/~0_", max_size=4), JSON, max_size=4))
def test_no_two_values_ever_share_a_key(tree: dict[str, Any]):
    flat = flatten(tree)
    assert len(flat.types) == sum(map(_leaves, tree.values()))
    assert flat.names == sorted(tree)
