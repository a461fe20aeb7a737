"""The strict JSON reader: every double as any writer prints it is read, and no other number is."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.gateway.strict_json import MAX_MEMBERS, read
from remit.model.errors import InputError

doubles = st.floats(allow_nan=False, allow_infinity=False)


@given(doubles)
def test_every_double_is_read_as_its_shortest_writing(number: float):
    assert read(repr(number).encode()) == number


@given(st.decimals(allow_nan=False, allow_infinity=False, places=25))
def test_a_decimal_is_read_exactly_or_not_at_all(number: Decimal):
    text = f"{number:f}"
    try:
        value = read(text.encode())
    except InputError:
        assert Decimal(repr(float(text))) != number or "." not in text
    else:
        assert Decimal(repr(value)) == number


@pytest.mark.parametrize(
    "text",
    [
        "1.0",
        "1e2",
        "0.10",
        "-0.0",
        "-0",
        "0e999999",
        "0.000e-400",
        "1E22",
        "1e23",
        "5e-324",
        "100.000000000000000000000000",
        "1.5e+3",
        "0.30000000000000004",
        "1.7976931348623157e308",
        "-1e-78",
    ],
)
def test_a_number_may_be_written_in_any_way_that_is_equal(text: str):
    assert Decimal(repr(read(text.encode()))) == Decimal(text)


def test_members_are_counted_and_commas_in_a_text_are_not():
    read(json.dumps({"text": "," * 100_000}).encode())
    read(json.dumps([0] * MAX_MEMBERS).encode())
    with pytest.raises(InputError, match="members"):
        read(json.dumps([0] * (MAX_MEMBERS + 1)).encode())
    with pytest.raises(InputError, match="members"):
        read(json.dumps({"a": [{}] * (MAX_MEMBERS // 2), "b": [[]] * (MAX_MEMBERS // 2)}).encode())
