"""Cases of RFC 8785: the reference documents, and the numbers of appendix B."""

import json
import struct

import pytest
from external import cases

from remit.model.errors import InputError
from remit.proof.encoding import canonical


def test_documents_take_the_form_of_the_reference():
    found = json.loads((cases("jcs_rfc8785") / "vectors.json").read_text())
    assert len(found) == 6
    for name, case in found.items():
        assert canonical(json.loads(case["input"])).hex() == case["output_hex"], name


def test_numbers_take_the_form_of_appendix_b():
    found = json.loads((cases("jcs_rfc8785") / "numbers_appendix_b.json").read_text())
    for case in found:
        (number,) = struct.unpack(">d", bytes.fromhex(case["ieee754"]))
        assert canonical(number) == case["text"].encode(), case


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_has_no_form(number: float):
    with pytest.raises(InputError):
        canonical([number])
