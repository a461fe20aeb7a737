"""Writes what was gathered of one task as one evidence pack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from remit.evidence.export import Gathered
from remit.proof.pack import Pack, PackedPayload, PackedRecord, encode_pack


def build_pack(
    gathered: Gathered,
    *,
    jwks: Mapping[str, Any],
    bundles: Mapping[str, Mapping[str, bytes]],
) -> bytes:
    """Return a task's evidence pack.

    Args:
        gathered: the task's records and what they name.
        jwks: the public keys that mandates are signed with.
        bundles: the files of each policy bundle that decided, by the bundle's digest.

    Raises:
        InputError: a member cannot be written as RFC 8785 has it.
    """
    return encode_pack(
        Pack(
            task=gathered.task,
            origin=gathered.origin,
            vkey=gathered.vkey,
            checkpoint=gathered.checkpoint,
            records=tuple(
                PackedRecord(index=each.index, data=each.data, proof=tuple(each.proof))
                for each in gathered.records
            ),
            mandates=tuple(gathered.mandates),
            keys=jwks,
            bundles={
                name: {path: data.decode() for path, data in files.items()}
                for name, files in bundles.items()
            },
            disclosed=tuple(
                PackedPayload(record=each.record, name=each.name, salt=each.salt, data=each.data)
                for each in gathered.disclosed
            ),
            withheld=tuple(gathered.withheld),
        )
    )
