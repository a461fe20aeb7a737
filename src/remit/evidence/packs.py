"""Writes what was gathered of one task as one evidence pack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from remit.evidence.export import Gathered
from remit.model.errors import InputError, ProofError
from remit.proof.jws import Jwk, kid_of
from remit.proof.note import Note, Verifier
from remit.proof.pack import Pack, PackedPayload, PackedRecord, encode_pack


def build_pack(
    gathered: Gathered,
    *,
    jwks: Mapping[str, Any],
    bundles: Mapping[str, Mapping[str, bytes]],
    witnesses: Sequence[str] = (),
) -> bytes:
    """Return a task's evidence pack (docs/spec/pack.md).

    Only what a verifier can check goes in: of ``jwks`` the keys that signed the mandates, of the
    checkpoint the signatures of the log and of ``witnesses``.

    Args:
        gathered: the task's records and what they name.
        jwks: the public keys that mandates are signed with.
        bundles: the files of each policy bundle that decided, by the bundle's digest.
        witnesses: the vkeys of the witnesses whose cosignatures are to stay on the checkpoint.

    Raises:
        InputError: a part cannot be in a pack: a bundle's file is not UTF-8, or a vkey is malformed.
        ProofError: the checkpoint, a mandate or the key that signed it is malformed.
    """
    named = {kid_of(mandate) for mandate in gathered.mandates}
    keys = [Jwk.parse(key) for key in jwks["keys"] if key["kid"] in named]
    checkpoint, cosigners = _signed_by(gathered, witnesses)
    return encode_pack(
        Pack(
            task=gathered.task,
            origin=gathered.origin,
            vkey=gathered.vkey,
            witnesses=cosigners,
            checkpoint=checkpoint,
            records=tuple(
                PackedRecord(index=each.index, data=each.data, proof=tuple(each.proof))
                for each in gathered.records
            ),
            mandates=tuple(gathered.mandates),
            keys=tuple(sorted(keys, key=lambda key: key.kid)),
            bundles={
                name: {path: _text(path, data) for path, data in files.items()}
                for name, files in bundles.items()
            },
            disclosed=tuple(
                PackedPayload(record=each.record, name=each.name, salt=each.salt, data=each.data)
                for each in sorted(gathered.disclosed, key=lambda each: (each.record, each.name))
            ),
            withheld=tuple(sorted(gathered.withheld)),
        )
    )


def _signed_by(gathered: Gathered, witnesses: Sequence[str]) -> tuple[bytes, tuple[str, ...]]:
    """Return the checkpoint with the signatures a pack can vouch for, each key's last one."""
    note = Note.parse(gathered.checkpoint)
    wanted = {(v.name, v.key_id): v for v in map(Verifier.parse, (gathered.vkey, *witnesses))}
    kept = {(s.name, s.key_id): s for s in note.signatures if (s.name, s.key_id) in wanted}
    cosigners = sorted(wanted[key].vkey for key in kept if wanted[key].vkey != gathered.vkey)
    if len(cosigners) == len(kept):
        raise ProofError("the checkpoint is not signed by the log")
    return Note(note.text, tuple(kept.values())).data, tuple(cosigners)


def _text(path: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"the bundle's file `{path}` is not UTF-8") from error
