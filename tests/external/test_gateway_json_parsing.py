"""JSONTestSuite through the gateway: what is no JSON goes nowhere, what is JSON is parsed."""

from __future__ import annotations

import base64
import json

import pytest
from external import cases

from remit.gateway.strict_json import read
from remit.model.errors import InputError

# The suite calls duplicate keys valid; we refuse them on purpose (promise 6).
_OURS = {"y_object_duplicated_key.json", "y_object_duplicated_key_and_value.json"}


def _suite() -> dict[str, bytes]:
    text = cases("json_parsing/parsing_b64.json").read_text()
    return {name: base64.b64decode(data) for name, data in json.loads(text).items()}


def test_what_is_no_json_is_refused_and_what_is_json_is_read():
    taken, refused = set(), set()
    for name, body in _suite().items():
        try:
            read(body)
        except InputError:
            refused.add(name)
        else:
            taken.add(name)
    assert {name for name in taken if name.startswith("n_")} == set()
    assert {name for name in refused if name.startswith("y_")} == _OURS


def test_what_readers_may_treat_either_way_is_refused_unless_every_reader_agrees():
    taken = set()
    for name, body in _suite().items():
        if name.startswith("i_"):
            try:
                read(body)
            except InputError:
                continue
            taken.add(name)
    assert taken == set()


@pytest.mark.parametrize("depth", [64, 65])
def test_the_depth_is_counted_exactly(depth: int):
    body = b"[" * depth + b"]" * depth
    if depth == 64:
        read(body)
    else:
        with pytest.raises(InputError):
            read(body)
