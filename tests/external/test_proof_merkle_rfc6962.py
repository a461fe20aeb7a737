"""Cases of transparency-dev/merkle: inclusion proofs good and bad, and the reference roots."""

import base64
import json

import pytest
from external import cases

from remit.model.errors import ProofError
from remit.proof.merkle import EMPTY_ROOT, Tree, leaf_hash, verify_inclusion


def _bytes(text: str | None) -> bytes:
    return base64.b64decode(text or "")


def test_inclusion_proofs_are_refused_exactly_where_the_reference_refuses_them():
    found = json.loads((cases("merkle_rfc6962") / "inclusion.json").read_text())
    assert len(found) == 98
    for case in found.values():
        proof = [_bytes(each) for each in case["proof"] or ()]
        arguments = (
            _bytes(case["leafHash"]),
            case["leafIdx"],
            case["treeSize"],
            proof,
            _bytes(case["root"]),
        )
        if case["wantErr"]:
            with pytest.raises(ProofError):
                verify_inclusion(*arguments)
        else:
            verify_inclusion(*arguments)


def test_the_reference_leaves_have_the_reference_roots():
    found = json.loads((cases("merkle_rfc6962") / "known_roots.json").read_text())
    tree = Tree()
    assert tree.root() == EMPTY_ROOT == bytes.fromhex(found["empty_root"])
    for leaf, root in zip(found["leaves_hex"], found["roots"], strict=True):
        tree.append(leaf_hash(bytes.fromhex(leaf)))
        assert tree.root().hex() == root
