"""Cases of golang.org/x/mod/sumdb/note, the reference implementation of signed notes."""

import json
from typing import Any

import pytest
from external import cases

from remit.model.errors import ProofError
from remit.proof.note import Signer, Verifier, open_note, sign_note


@pytest.fixture
def found():
    return json.loads((cases("signed_note") / "cases.json").read_text())


def test_notes_open_exactly_where_the_reference_opens_them(found: dict[str, Any]):
    assert len(found["cases"]) == 11
    for case in found["cases"]:
        verifiers = [Verifier.parse(vkey) for vkey in case["keys"]]
        if case["ok"]:
            _, verified = open_note(case["msg"].encode(), verifiers)
            assert len(verified) == case["verified"], case["name"]
        else:
            with pytest.raises(ProofError):
                open_note(case["msg"].encode(), verifiers)


def test_a_note_is_signed_as_the_reference_signs_it(found: dict[str, Any]):
    signer = Signer.parse(found["signer_key_test"])
    assert sign_note(found["sign_text"], [signer]) == found["expected_signed"].encode()
    assert signer.verifier.vkey == found["cases"][0]["keys"][0]
    assert signer.skey == found["signer_key_test"]
