"""The examples of RFC 9449 and RFC 7638: taken at their own moment, and refused when turned."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from external import cases

from remit.identity.dpop import InvalidProofError, Proofs
from remit.model.subject import Possession
from remit.proof.dpop import thumbprint, token_hash


def examples() -> dict[str, Any]:
    return dict(json.loads(cases("rfc9449_dpop/examples.json").read_text()))


def proofs() -> list[dict[str, Any]]:
    found = [e for e in examples()["jwts"] if e.get("header", {}).get("typ") == "dpop+jwt"]
    assert len(found) == 3
    return found


def door(example: dict[str, Any], *, later: float = 0.0) -> Proofs:
    url = example["payload"]["htu"].rpartition("/")[0]
    now = datetime.fromtimestamp(example["payload"]["iat"] + later, UTC)
    return Proofs(url=url, clock=lambda: now)


def ask(example: dict[str, Any], **changes: Any) -> tuple[Possession, str | None]:
    said = example["payload"]
    token = examples()["access_token_for_ath"] if "ath" in said else None
    request = {"method": said["htm"], "path": "/" + said["htu"].rpartition("/")[2], **changes}
    return Possession(proofs=(example["jwt"],), **request), token


def test_the_examples_hold_at_their_own_moment_and_once() -> None:
    for example in proofs():
        at = door(example)
        shown = at.read(*ask(example))
        assert shown is not None
        assert shown.key == examples()["jkt"]
        at.use(shown, "somebody")
        with pytest.raises(InvalidProofError, match="used before"):
            at.use(shown, "somebody")


def test_the_examples_are_refused_elsewhere_otherwise_and_later() -> None:
    for example in proofs():
        for changes in ({"method": "PUT"}, {"path": "/elsewhere"}):
            with pytest.raises(InvalidProofError, match=r"not for the method|another address"):
                door(example).read(*ask(example, **changes))
        for later in (-60.0, 60.0):
            with pytest.raises(InvalidProofError, match=r"too old|ahead of"):
                door(example, later=later).read(*ask(example))
        with pytest.raises(InvalidProofError, match="token"):
            door(example).read(ask(example)[0], "another.token")


def test_hashes_and_thumbprints_are_those_of_the_standards() -> None:
    given = examples()
    assert token_hash(given["access_token_for_ath"]) == given["ath"]
    assert thumbprint(proofs()[0]["header"]["jwk"]) == given["jkt"]
    of = given["rfc7638_example"]
    assert thumbprint(of["jwk"]) == of["thumbprint"]


def test_what_is_no_proof_is_refused_as_one() -> None:
    others = [e["jwt"] for e in examples()["jwts"] if "error" in e or "kid" in e.get("header", {})]
    assert len(others) == 3
    for text in others:
        possession = Possession(proofs=(text,), method="GET", path="/")
        with pytest.raises(InvalidProofError):
            door(proofs()[0]).read(possession, None)
