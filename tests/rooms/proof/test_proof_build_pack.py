"""What evidence gathered becomes a pack, with nothing in it that a verifier could not check."""

from dataclasses import replace

import packs
import pytest
from joserfc.jwk import ECKey
from packs import LOG, WITNESS, jwk, tale

from remit.evidence.export import Disclosed, Gathered, Proven
from remit.evidence.packs import build_pack
from remit.model.errors import InputError, ProofError
from remit.proof.checkpoint import cosign, with_signatures
from remit.proof.encoding import decode_record
from remit.proof.note import COSIGNATURE_V1, Note, Signer
from remit.proof.pack import decode_pack
from remit.proof.verify import verify_pack

RETIRED = jwk(ECKey.generate_key("P-256"))
JWKS = {"keys": [RETIRED.document, jwk().document]}
BUNDLES = {
    packs.BUNDLE_DIGEST: {path: text.encode() for path, text in packs.BUNDLE.items()},
}


def _gathered() -> Gathered:
    pack = tale().pack()
    return Gathered(
        task=pack.task,
        origin=pack.origin,
        vkey=pack.vkey,
        checkpoint=pack.checkpoint,
        size=36,
        records=[
            Proven(
                index=each.index,
                data=each.data,
                record=decode_record(each.data),
                proof=list(each.proof),
            )
            for each in pack.records
        ],
        mandates=list(pack.mandates),
        bundles=list(pack.bundles),
    )


def test_what_was_gathered_verifies_and_keys_that_signed_nothing_stay_out():
    data = build_pack(_gathered(), jwks=JWKS, bundles=BUNDLES)
    assert verify_pack(data, [LOG.verifier.vkey]).sealed
    assert decode_pack(data).keys == (jwk(),)


def test_payloads_and_what_was_erased_go_in_in_order():
    told = tale()
    told.disclose = frozenset({"facts"})
    shown = [
        Disclosed(record=each.record, name=each.name, salt=each.salt, data=each.data)
        for each in told.pack().disclosed
    ]
    gathered = replace(
        _gathered(), disclosed=shown[::-1], withheld=[("rec_007", "result"), ("rec_000", "prompt")]
    )
    data = build_pack(gathered, jwks=JWKS, bundles=BUNDLES)
    assert "2 of them erased" in verify_pack(data).steps[-1].sentence


def test_only_the_cosignatures_that_are_vouched_for_stay_on_the_checkpoint():
    unknown = Signer("unknown.example/w", COSIGNATURE_V1, b"\x09" * 32)
    gathered = _gathered()
    note = with_signatures(
        gathered.checkpoint,
        [
            cosign(gathered.checkpoint, WITNESS, time=5),
            cosign(gathered.checkpoint, unknown, time=6),
            cosign(gathered.checkpoint, WITNESS, time=7),
        ],
    )
    gathered = replace(gathered, checkpoint=note)
    vkey = WITNESS.verifier.vkey
    data = build_pack(gathered, jwks=JWKS, bundles=BUNDLES, witnesses=[vkey])
    assert verify_pack(data, [LOG.verifier.vkey, vkey]).witnesses == (WITNESS.name,)
    assert len(Note.parse(decode_pack(data).checkpoint).signatures) == 2
    alone = build_pack(gathered, jwks=JWKS, bundles=BUNDLES)
    assert len(Note.parse(decode_pack(alone).checkpoint).signatures) == 1


def test_a_checkpoint_that_the_log_did_not_sign_makes_no_pack():
    gathered = _gathered()
    note = Note(
        Note.parse(gathered.checkpoint).text, (cosign(gathered.checkpoint, WITNESS, time=5),)
    )
    with pytest.raises(ProofError, match="not signed by the log"):
        build_pack(
            replace(gathered, checkpoint=note.data),
            jwks=JWKS,
            bundles=BUNDLES,
            witnesses=[WITNESS.verifier.vkey],
        )


def test_a_bundles_file_that_is_no_text_makes_no_pack():
    with pytest.raises(InputError, match="UTF-8"):
        build_pack(_gathered(), jwks=JWKS, bundles={packs.BUNDLE_DIGEST: {"a.cedar": b"\xff"}})
