"""Records become one sequence of bytes, and nothing else is read as a record."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from remit.model.errors import InputError, ProofError
from remit.model.record import Record
from remit.proof.encoding import (
    MAX_DEPTH,
    MAX_RECORD_BYTES,
    canonical,
    decode_record,
    digest,
    encode_record,
    format_time,
)

RECORD = Record(
    id="rec_1",
    kind="call.decided",
    at=datetime(2026, 11, 24, 9, 8, 7, 65, tzinfo=UTC),
    body={"effect": "permit", "policies": [{"id": "a", "reason": "é\u2028"}], "n": 2**53 - 1},
    payloads={"facts": {"digest": digest(b"x"), "bytes": 1}},
    task="task_1",
    call="call_1",
    parents=("rec_0",),
)
LEAF = encode_record(RECORD)


def test_a_record_reads_back_as_it_was_written():
    assert decode_record(LEAF) == RECORD
    assert LEAF.startswith(b'{"at":"2026-11-24T09:08:07.000065Z","body":{"effect":"permit",')
    assert LEAF.endswith(b'"task":"task_1","trace":null,"v":1}')


def test_a_time_elsewhere_is_written_in_utc():
    elsewhere = RECORD.at.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert encode_record(replace(RECORD, at=elsewhere)) == LEAF
    assert format_time(datetime(33, 1, 1, tzinfo=UTC)) == "0033-01-01T00:00:00.000000Z"


def test_views_tuples_and_named_values_are_written_as_plain_ones():
    class Word(StrEnum):
        PERMIT = "permit"

    body = MappingProxyType(
        {"effect": Word.PERMIT, "policies": ({"id": "a", "reason": "é\u2028"},), "n": 2**53 - 1}
    )
    assert encode_record(replace(RECORD, body=body)) == LEAF


@pytest.mark.parametrize(
    "change",
    [
        {"body": {"amount": 1.5}},
        {"body": {"amount": [{"deep": 0.0}]}},
        {"body": {"n": 2**53}},
        {"body": {"n": -(2**53)}},
        {"body": {"text": "\ud800"}},
        {"body": {"\udfff": 1}},
        {"body": {1: "a"}},
        {"body": {"data": b"bytes"}},
        {"body": {"data": {1, 2}}},
        {"body": [1]},
        {"body": {"long": "x" * MAX_RECORD_BYTES}},
        {"at": datetime(2026, 1, 1)},  # noqa: DTZ001 - naive on purpose
        {"kind": "decided"},
        {"kind": "Call.decided"},
        {"kind": "call.decided\n"},
        {"id": ""},
        {"id": "rec 1"},
        {"id": "x" * 257},
        {"call": "é"},
        {"parents": ("rec_0", "rec_0")},
        {"parents": (7,)},
        {"payloads": {"facts": {"digest": digest(b"x")}}},
        {"payloads": {"facts": {"digest": "sha256:00", "bytes": 1}}},
        {"payloads": {"facts": {"digest": digest(b"x").upper(), "bytes": 1}}},
        {"payloads": {"facts": {"digest": digest(b"x"), "bytes": -1}}},
        {"payloads": {"facts": {"digest": digest(b"x"), "bytes": True}}},
        {"payloads": {"facts": {"digest": digest(b"x"), "bytes": 1, "salt": "00"}}},
        {"payloads": {"facts": "sha256"}},
    ],
)
def test_what_cannot_be_a_record_is_refused_when_it_is_written(change: dict[str, Any]):
    with pytest.raises(InputError):
        encode_record(replace(RECORD, **change))


def test_a_value_nested_too_deep_is_refused_and_does_not_crash():
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InputError):
        canonical(deep)
    with pytest.raises(ProofError):
        decode_record(b"[" * 60_000 + b"]" * 5)
    shallow: list[object] = []
    for _ in range(MAX_DEPTH - 2):
        shallow = [shallow]
    canonical(shallow)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("a space", b'"v":1', b'"v": 1'),
        ("a newline at the end", b'"v":1}', b'"v":1}\n'),
        ("a member twice", b'"v":1', b'"v":1,"v":1'),
        ("a member twice below", b'"bytes":1', b'"bytes":1,"bytes":1'),
        ("an unknown member", b'"v":1', b'"v":1,"w":1'),
        ("a missing member", b'"trace":null,', b""),
        ("another order", b'"trace":null,"v":1', b'"v":1,"trace":null'),
        ("an escape that is not needed", b'"effect"', b'"\\u0065ffect"'),
        ("another version", b'"v":1', b'"v":2'),
        ("a version that equals one", b'"v":1', b'"v":true'),
        ("a float that equals an integer", b'"bytes":1', b'"bytes":1.0'),
        ("an exponent", b'"bytes":1', b'"bytes":1e0'),
        ("minus zero", b'"bytes":1', b'"bytes":-0'),
        ("a number beyond 2^53", b"9007199254740991", b"9007199254740993"),
        ("a number of five thousand digits", b"9007199254740991", b"9" * 5000),
        ("not a number", b"9007199254740991", b"NaN"),
        ("infinity", b"9007199254740991", b"Infinity"),
        ("a byte order mark", b'{"at"', b'\xef\xbb\xbf{"at"'),
        ("bytes that are not UTF-8", b"\xc3\xa9", b"\xe9"),
        ("a lone surrogate", b"\xc3\xa9", b"\\ud800"),
        ("a time without its zone", b"000065Z", b"000065"),
        ("a time with an offset", b"000065Z", b"000065+00:00"),
        ("a time of fewer digits", b"000065Z", b"65Z"),
        ("a day that does not exist", b"2026-11-24T", b"2026-11-31T"),
        ("a time that is a number", b'"2026-11-24T09:08:07.000065Z"', b"0"),
        ("parents that are text", b'["rec_0"]', b'"rec_0"'),
        ("a task that is a number", b'"task_1"', b"1"),
        ("a body that is a list", b'"trace":null', b'"trace":[]'),
        ("payloads that are a list", b'"parents":["rec_0"]', b'"parents":[["rec_0"]]'),
    ],
)
def test_a_leaf_written_any_other_way_is_no_record(name: str, old: bytes, new: bytes):
    assert LEAF.count(old) >= 1, name
    with pytest.raises(ProofError):
        decode_record(LEAF.replace(old, new, 1))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"1", LEAF + LEAF, b"x" * 70_000])
def test_what_is_no_record_at_all_is_refused(data: bytes):
    with pytest.raises(ProofError):
        decode_record(data)


def test_every_flipped_bit_changes_the_record_or_is_refused():
    for place in range(len(LEAF)):
        for bit in range(8):
            flipped = bytearray(LEAF)
            flipped[place] ^= 1 << bit
            try:
                found = decode_record(bytes(flipped))
            except ProofError:
                continue
            assert found != RECORD


_json = st.recursive(
    st.none() | st.booleans() | st.integers(1 - 2**53, 2**53 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=5), _json, max_size=4))
def test_any_body_reads_back_as_it_was_written(body: dict[str, Any]):
    record = replace(RECORD, body=body)
    assert decode_record(encode_record(record)) == record


@given(
    st.recursive(
        _json | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.dictionaries(st.text(max_size=3), inner, max_size=4),
        max_leaves=8,
    )
)
@example({"\ue000": 1, "\U00010000": {"\x7f": [-0.0, 1e21], "\x1f\u2028": True}, "": None})
@example({"a\x00": '\b\f\n\r\t"\\/\x1b\x7f', "a": [[], {}, ""]})
def test_every_value_takes_the_form_that_the_reference_encoder_gives_it(value: Any):
    assert canonical(value) == rfc8785.dumps(value)


@given(st.binary(max_size=60))
def test_random_bytes_are_refused_with_a_proof_error(data: bytes):
    with pytest.raises(ProofError):
        decode_record(data)
