"""The formats as the documents and the vectors fix them: what verified once verifies for ever."""

import re
from pathlib import Path

import pytest

from remit.model.errors import ProofError
from remit.proof.checkpoint import open_checkpoint
from remit.proof.encoding import decode_record, encode_record
from remit.proof.merkle import leaf_hash
from remit.proof.note import Verifier
from remit.proof.pack import FORMAT, MAX_PACK_BYTES, decode_pack
from remit.proof.verify import verify_pack

ROOT = Path(__file__).resolve().parents[3]
SPEC = ROOT / "docs" / "spec"
VECTORS = ROOT / "tests" / "vectors" / "proof"


def _blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (SPEC / page).read_text(), re.DOTALL)


def test_the_stored_pack_verifies_with_the_stored_keys():
    vkeys = (VECTORS / "vkeys.txt").read_text().split()
    verdict = verify_pack((VECTORS / "honest_pack.json").read_bytes(), vkeys)
    assert verdict.sealed
    assert verdict.witnesses == ("witness.example/w1",)
    with pytest.raises(ProofError):
        verify_pack((VECTORS / "honest_pack.json").read_bytes(), vkeys[1:])


def test_the_stored_packs_without_a_seal_are_taken_as_the_document_says():
    vkeys = (VECTORS / "vkeys.txt").read_text().split()
    still_open = (VECTORS / "open_pack.json").read_bytes()
    with pytest.raises(ProofError, match=r"^step 5, chain: "):
        verify_pack(still_open, vkeys)
    assert not verify_pack(still_open, vkeys, open_task=True).sealed
    with pytest.raises(ProofError, match=r"^step 5, chain: "):
        verify_pack((VECTORS / "ended_unsealed_pack.json").read_bytes(), vkeys, open_task=True)


def test_the_stored_pack_with_a_computed_key_is_refused():
    vkeys = (VECTORS / "vkeys.txt").read_text().split()
    with pytest.raises(ProofError, match=r"^step 6, mandate: "):
        verify_pack((VECTORS / "mandate_key_computed_pack.json").read_bytes(), vkeys)


def test_the_record_in_the_document_is_one_with_the_hash_it_says():
    leaf = _blocks("record.md", "json")[0].strip().encode()
    assert encode_record(decode_record(leaf)) == leaf
    assert f"`{leaf_hash(leaf).hex()}`" in (SPEC / "record.md").read_text()
    stored = decode_pack((VECTORS / "honest_pack.json").read_bytes()).records
    assert leaf in [each.data for each in stored]


def test_the_checkpoint_in_the_document_is_signed_as_it_says():
    vkeys = (VECTORS / "vkeys.txt").read_text().split()
    note = _blocks("log.md", "text")[0].encode()
    opened = open_checkpoint(note, [Verifier.parse(vkey) for vkey in vkeys])
    assert opened.checkpoint.size == 36
    assert opened.witnesses == ("witness.example/w1",)


def test_the_document_numbers_the_steps_as_the_verifier_takes_them():
    page = (SPEC / "pack.md").read_text()
    named = re.findall(r"^(\d+)\. \*\*(\w+)\*\*", page, re.MULTILINE)
    verdict = verify_pack((VECTORS / "honest_pack.json").read_bytes())
    taken = [(str(number), step.name) for number, step in enumerate(verdict.steps, 1)]
    assert named == taken
    assert f"`{FORMAT}`" in page
    assert f"{MAX_PACK_BYTES // 1024**2} MiB" in page
