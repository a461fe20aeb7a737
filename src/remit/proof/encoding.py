"""How a value becomes the bytes that are hashed, and how a record is read back.

Rules (docs/spec/record.md):

- The canonical form is RFC 8785 (JCS). Whole numbers beyond 2^53 - 1 are refused, because a reader
  whose numbers are doubles would hash something else.
- A record holds no floats, has every member of its version and no other, and is at most 65,535
  bytes, because a log entry's length is a uint16.
- Reading is strict: bytes that would not be written again exactly as they are, are not a record.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

import rfc8785

from remit.model.errors import InputError, ProofError
from remit.model.record import Json, Record

MAX_RECORD_BYTES = 65_535
"""The longest leaf: C2SP tlog-tiles writes an entry's length as a uint16."""

MAX_DEPTH = 128
"""How deep a canonical value may be nested."""

RECORD_VERSION = 1
"""The record format's version, the member ``v`` of every record."""

MAX_INTEGER = 2**53 - 1
"""The largest whole number that every reader has exactly."""

_MAX_NAME_BYTES = 256
_FLOAT = "a float"
_KEY = "a key that is not ASCII"
_FAST = json.JSONEncoder(
    ensure_ascii=False,
    check_circular=False,
    allow_nan=False,
    sort_keys=True,
    separators=(",", ":"),
).encode
_KIND = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+\Z")
_NAME = re.compile(r"[\x21-\x7e]+\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_AT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z\Z", re.ASCII)
_MEMBERS = frozenset(
    {"v", "id", "kind", "at", "task", "call", "parents", "trace", "body", "payloads"}
)


def canonical(value: Json) -> bytes:
    """Return the RFC 8785 form of a JSON value, UTF-8.

    Finite floats are written as RFC 8785 section 3.2.2.3 says; :func:`encode_record` refuses them.

    Raises:
        InputError: a number is not finite or a whole one is beyond 2^53 - 1, a key is not text,
            text holds a lone surrogate, the value is nested deeper than ``MAX_DEPTH``, or it is
            not JSON at all.
    """
    marks: set[str] = set()
    return _write(_plain(value, MAX_DEPTH, marks), marks)


def digest(data: bytes) -> str:
    """Return ``sha256:<hex>`` of the bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def is_digest(value: object) -> bool:
    """Say whether the value is a well-formed ``sha256:<hex>`` in lower case."""
    return isinstance(value, str) and _DIGEST.match(value) is not None


def format_time(at: datetime) -> str:
    """Return the one form of a time in a record: UTC, microseconds, ``Z``.

    Raises:
        InputError: the time is naive.
    """
    if at.utcoffset() is None:
        raise InputError("a record's time needs a time zone")
    return f"{at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def encode_record(record: Record) -> bytes:
    """Return the record's leaf: the exact bytes that are stored and hashed.

    See docs/spec/record.md section 2.

    Raises:
        InputError: the record has a float, a malformed member, or more than ``MAX_RECORD_BYTES``.
    """
    _check(record)
    marks: set[str] = set()
    plain = _plain(
        {
            "v": RECORD_VERSION,
            "id": record.id,
            "kind": record.kind,
            "at": format_time(record.at),
            "task": record.task,
            "call": record.call,
            "parents": list(record.parents),
            "trace": record.trace,
            "body": record.body,
            "payloads": record.payloads,
        },
        MAX_DEPTH,
        marks,
    )
    if _FLOAT in marks:
        raise InputError("a record holds no floats: write amounts as text")
    leaf = _write(plain, marks)
    if len(leaf) > MAX_RECORD_BYTES:
        raise InputError(
            f"record `{record.id}` of kind `{record.kind}` is {len(leaf)} bytes:"
            f" at most {MAX_RECORD_BYTES} fit a log entry"
        )
    return leaf


def decode_record(data: bytes) -> Record:
    """Read a record back from its leaf.

    See docs/spec/record.md section 3.

    Raises:
        ProofError: the bytes are not exactly what :func:`encode_record` writes.
    """
    if len(data) > MAX_RECORD_BYTES:
        raise ProofError(f"a record is at most {MAX_RECORD_BYTES} bytes, not {len(data)}")
    document = parse_strict(data)
    if not isinstance(document, dict) or document.keys() != _MEMBERS:
        raise ProofError("a record has exactly the members of version 1")
    if document["v"] != RECORD_VERSION or isinstance(document["v"], bool):
        raise ProofError("a record's version is 1")
    at, parents = document["at"], document["parents"]
    if not isinstance(at, str) or not _AT.match(at):
        raise ProofError("a record's time is UTC with microseconds and Z")
    if not isinstance(parents, list):
        raise ProofError("a record's parents are a list of ids")
    try:
        record = Record(
            id=document["id"],
            kind=document["kind"],
            at=datetime.fromisoformat(at),
            body=document["body"],
            payloads=document["payloads"],
            task=document["task"],
            call=document["call"],
            parents=tuple(parents),
            trace=document["trace"],
        )
        again = encode_record(record)
    except (InputError, ValueError) as error:
        raise ProofError(f"this is not a record: {error}") from error
    if again != data:
        raise ProofError("the record is not in canonical form: it would be written differently")
    return record


def parse_strict(data: bytes) -> Any:
    """Parse JSON that has to mean one thing only: UTF-8, no duplicate keys, no NaN or Infinity.

    Raises:
        ProofError: the bytes are not such JSON.
    """
    try:
        return _STRICT(data.decode("utf-8"))
    except RecursionError as error:
        raise ProofError("the JSON is nested too deep") from error
    except ValueError as error:
        raise ProofError(f"this is not strict JSON: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ProofError("a JSON object has the same key twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ProofError(f"`{name}` is not JSON")


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant).decode


def _check(record: Record) -> None:
    _check_name("id", record.id)
    _check_name("kind", record.kind)
    if not _KIND.match(record.kind):
        raise InputError(f"`{record.kind}` is not a record kind: lower case words with dots")
    for label, value in (("task", record.task), ("call", record.call), ("trace", record.trace)):
        if value is not None:
            _check_name(label, value)
    for parent in record.parents:
        _check_name("parent", parent)
    if len(set(record.parents)) != len(record.parents):
        raise InputError("a record names each parent once")
    if not isinstance(record.body, Mapping) or not isinstance(record.payloads, Mapping):
        raise InputError("a record's body and payloads are objects")
    for name, payload in record.payloads.items():
        _check_payload(name, payload)


def _check_payload(name: str, payload: Mapping[str, Json]) -> None:
    _check_name("payload name", name)
    if not isinstance(payload, Mapping) or payload.keys() != {"digest", "bytes"}:
        raise InputError(f"payload `{name}` has exactly a digest and bytes")
    size = payload["bytes"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise InputError(f"the size of payload `{name}` is a count of bytes")
    if not is_digest(payload["digest"]):
        raise InputError(f"the digest of payload `{name}` is sha256: and 64 hex digits")


def _check_name(label: str, value: object) -> None:
    if not isinstance(value, str) or not _NAME.match(value) or len(value) > _MAX_NAME_BYTES:
        raise InputError(f"a record's {label} is 1 to {_MAX_NAME_BYTES} visible ASCII characters")


def _plain(value: Any, depth: int, marks: set[str]) -> Any:
    """Return the value with every mapping a dict and every sequence a list, and mark what is odd.

    The exact types come first: they are nearly all there is, and staging waits for this.
    """
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return value
    if kind is not dict and kind is not list:
        if isinstance(value, int):
            if not -MAX_INTEGER <= value <= MAX_INTEGER:
                raise InputError("a whole number is beyond 2^53 - 1: write it as text")
            return int(value)
        if isinstance(value, str):
            return value
        if isinstance(value, float):
            marks.add(_FLOAT)
            return float(value)
    if depth == 0:
        raise InputError(f"the value is nested deeper than {MAX_DEPTH}")
    depth -= 1
    if kind is dict or isinstance(value, Mapping):
        _check_keys(value, marks)
        return {key: _plain(item, depth, marks) for key, item in value.items()}
    if kind is list or (
        isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview))
    ):
        return [_plain(item, depth, marks) for item in value]
    raise InputError(f"`{type(value).__name__}` is not JSON")


def _check_keys(keys: Iterable[Any], marks: set[str]) -> None:
    try:
        joined = "".join(keys)
    except TypeError as error:
        raise InputError("the keys of an object are text") from error
    if not joined.isascii():
        marks.add(_KEY)


def _write(plain: Any, marks: set[str]) -> bytes:
    """Write a plain value down.

    Without floats, and with ASCII keys only, RFC 8785 asks for what the standard encoder does too,
    an order of magnitude faster; tests/rooms/proof holds the two to the same bytes.
    """
    try:
        return rfc8785.dumps(plain) if marks else _FAST(plain).encode()
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise InputError(f"the value has no canonical form: {error}") from error
