"""Project Wycheproof's JWS and JWK cases: nothing that they call invalid may be accepted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from external import cases

from remit.identity import jose
from remit.model.errors import UnidentifiedError

FILES = ("json_web_crypto_test.json", "json_web_key_test.json")


def accepted(keys: list[dict[str, Any]], token: str) -> bool:
    try:
        found = jose.by_kid(jose.import_key(key) for key in keys if key.get("use") == "sig")
        parsed = jose.parse(token)
        if parsed.kid is None or parsed.kid not in found:
            return False
        jose.verify_signature(parsed, found[parsed.kid])
    except (UnidentifiedError, ValueError):
        return False
    return True


@pytest.mark.parametrize("name", FILES)
def test_wycheproof_jws_is_accepted_only_where_it_is_valid(name: str) -> None:
    document = json.loads(cases(f"wycheproof_jose/{name}").read_text())
    wrong, right, invalid = [], 0, 0
    for group in document["testGroups"]:
        key = group.get("public") or group["private"]
        keys = key.get("keys") or [key]
        for test in group["tests"]:
            if not isinstance(test.get("jws"), str):
                continue
            took = accepted(keys, test["jws"])
            invalid += test["result"] == "invalid"
            if test["result"] == "invalid" and took:
                wrong.append((test["tcId"], group["comment"], test["comment"]))
            # Symmetric keys are not supported at all, so their valid cases are refused too.
            if test["result"] == "valid" and all(k["kty"] != "oct" for k in keys):
                right += 1
                if not took:
                    wrong.append((test["tcId"], group["comment"], test["comment"]))
    assert wrong == []
    assert right >= 1
    assert invalid >= 10
