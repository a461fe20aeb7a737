"""Why a mandate's key is named by its thumbprint: a signature alone does not say whose it is."""

from dataclasses import replace

import pytest
from joserfc import jws
from joserfc.jwk import ECKey
from packs import LOG, jwk, tale
from recovery import recovered

from remit.model.errors import ProofError
from remit.proof.jws import kid_of
from remit.proof.verify import verify_pack


@pytest.mark.parametrize("renamed", [False, True])
def test_another_key_can_be_computed_that_fits_and_is_refused(renamed: bool):
    told = tale()
    keys = recovered(told.mandate)
    assert jwk() in keys
    (other,) = [key for key in keys if key != jwk()]
    # It is a key that the signature verifies under: only its name gives it away.
    jws.deserialize_compact(told.mandate, ECKey.import_key(other.document), algorithms=["ES256"])
    if renamed:
        other = replace(other, kid=other.thumbprint)
    with pytest.raises(ProofError, match=r"^step 6, mandate: "):
        verify_pack(told.data(lambda pack: replace(pack, keys=(other,))), [LOG.verifier.vkey])


def test_the_log_names_the_mandates_key_by_its_thumbprint():
    told = tale()
    verdict = verify_pack(told.data(), [LOG.verifier.vkey])
    assert verdict.mandate_key == jwk().thumbprint == kid_of(told.mandate)
    assert not any("whose key" in sentence for sentence in verdict.does_not_prove)
