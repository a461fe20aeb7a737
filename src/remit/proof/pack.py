"""The evidence pack: one task's evidence in one file, as docs/spec/pack.md describes it.

A pack is one JSON document in RFC 8785 form. A record stands in it as itself: its canonical bytes
are the log's leaf. There is one way to write a pack down, so reading is strict: what would not be
written again byte for byte is refused, and ``digest`` covers every other member.

JSON and not an archive, because an archive says most things twice (in its directory and beside each
member) and readers differ on which they trust, and because every language and person can read it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from remit.model.errors import InputError, ProofError
from remit.proof.encoding import canonical, digest, parse_strict
from remit.proof.jws import Jwk

T = TypeVar("T", int, str, tuple[str, str])

FORMAT = "remit/evidence-pack/v1"
MAX_PACK_BYTES = 64 * 1024 * 1024
_HASH_BYTES = 32
_MEMBERS = {
    "format",
    "task",
    "log",
    "records",
    "mandates",
    "keys",
    "bundles",
    "disclosed",
    "withheld",
    "digest",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRecord:
    """One record: ``data`` is the leaf, ``proof`` the hashes from it to the checkpoint's root."""

    index: int
    data: bytes = field(repr=False)
    proof: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedPayload:
    """One payload in the clear, with the salt of its digest."""

    record: str
    name: str
    salt: bytes = field(repr=False)
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """A pack's members.

    ``witnesses`` are the vkeys of every cosignature on the checkpoint, ``keys`` the public keys that
    signed the mandates, by kid; ``bundles`` maps a digest to the texts of a bundle's files by path.
    """

    task: str
    origin: str
    vkey: str
    witnesses: tuple[str, ...] = ()
    checkpoint: bytes = field(repr=False)
    records: tuple[PackedRecord, ...]
    mandates: tuple[str, ...]
    keys: tuple[Jwk, ...]
    bundles: Mapping[str, Mapping[str, str]] = field(repr=False)
    disclosed: tuple[PackedPayload, ...] = ()
    withheld: tuple[tuple[str, str], ...] = ()


def encode_pack(pack: Pack) -> bytes:
    """Return a pack's one form.

    Raises:
        InputError: a member holds what RFC 8785 cannot write, or a list is out of order.
        ProofError: a record's bytes are not JSON.
    """
    _check(pack)
    document: dict[str, Any] = {
        "format": FORMAT,
        "task": pack.task,
        "log": {
            "origin": pack.origin,
            "vkey": pack.vkey,
            "witnesses": list(pack.witnesses),
            "checkpoint": pack.checkpoint.decode(),
        },
        "records": [
            {
                "index": each.index,
                "record": parse_strict(each.data),
                "proof": [_text(node) for node in each.proof],
            }
            for each in pack.records
        ],
        "mandates": list(pack.mandates),
        "keys": {"keys": [key.document for key in pack.keys]},
        "bundles": pack.bundles,
        "disclosed": [
            {
                "record": each.record,
                "name": each.name,
                "salt": _text(each.salt),
                "data": _text(each.data),
            }
            for each in pack.disclosed
        ],
        "withheld": [list(pair) for pair in pack.withheld],
    }
    return canonical({**document, "digest": digest(canonical(document))})


def decode_pack(data: bytes) -> Pack:
    """Read a pack, strictly.

    Raises:
        ProofError: it is too large, not a pack, not in its one form, or was altered.
    """
    if len(data) > MAX_PACK_BYTES:
        raise ProofError(f"a pack holds at most {MAX_PACK_BYTES} bytes")
    document = parse_strict(data)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ProofError(f"this is not an evidence pack of format `{FORMAT}`")
    if set(document) != _MEMBERS:
        odd = sorted(set(document) ^ _MEMBERS)
        raise ProofError(f"the pack's members are not those of its format: {', '.join(odd)[:200]}")
    try:
        pack = _pack(document)
        again = encode_pack(pack)
    except ProofError:
        raise
    except (InputError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ProofError("a member of the pack has not the shape of its format") from error
    if again != data:
        raise ProofError("the pack was altered, or not written in its one form")
    return pack


def _pack(document: Mapping[str, Any]) -> Pack:
    log = document["log"]
    return Pack(
        task=_str(document["task"]),
        origin=_str(log["origin"]),
        vkey=_str(log["vkey"]),
        witnesses=tuple(_str(each) for each in log["witnesses"]),
        checkpoint=_str(log["checkpoint"]).encode(),
        records=tuple(
            PackedRecord(
                index=_index(each["index"]),
                data=canonical(each["record"]),
                proof=tuple(_hash(node) for node in each["proof"]),
            )
            for each in document["records"]
        ),
        mandates=tuple(_str(each) for each in document["mandates"]),
        keys=tuple(Jwk.parse(each) for each in document["keys"]["keys"]),
        bundles={
            _str(name): {_str(path): _str(text) for path, text in files.items()}
            for name, files in document["bundles"].items()
        },
        disclosed=tuple(
            PackedPayload(
                record=_str(each["record"]),
                name=_str(each["name"]),
                salt=_bytes(each["salt"]),
                data=_bytes(each["data"]),
            )
            for each in document["disclosed"]
        ),
        withheld=tuple((_str(record), _str(name)) for record, name in document["withheld"]),
    )


def _check(pack: Pack) -> None:
    """Hold every list to its one order: what is there twice would count twice."""
    _ascending("records", [each.index for each in pack.records])
    _ascending("witnesses", pack.witnesses)
    _ascending("keys", [key.kid for key in pack.keys])
    _ascending("disclosed payloads", [(each.record, each.name) for each in pack.disclosed])
    _ascending("withheld payloads", pack.withheld)


def _ascending(what: str, values: Sequence[T]) -> None:
    if list(values) != sorted(set(values)):
        raise InputError(f"a pack's {what} are in order, each once")


def manifest_digest(files: Mapping[str, str]) -> str:
    """Return the digest that names a policy bundle: of the manifest {path: digest of the file}."""
    return digest(canonical({path: digest(text.encode()) for path, text in files.items()}))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(value: object) -> bytes:
    try:
        return base64.b64decode(_str(value), validate=True)
    except binascii.Error as error:
        raise ProofError("a member of the pack is not base64") from error


def _hash(value: object) -> bytes:
    data = _bytes(value)
    if len(data) != _HASH_BYTES:
        raise ProofError("a proof holds something other than hashes of 32 bytes")
    return data


def _str(value: object) -> str:
    if not isinstance(value, str):
        raise ProofError("a member of the pack is not a text")
    return value


def _index(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ProofError("a record's index is not a number from 0")
    return value
