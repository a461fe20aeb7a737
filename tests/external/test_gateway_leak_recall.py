"""Recall and false positives of the leak guard's rules on published fakes that others collected."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from external import cases

from remit.gateway.kingfisher import Kingfisher
from remit.gateway.leaks import LeakGuard

COMMON = {
    "anthropic-api-key",
    "azure-ad-client-secret",
    "atlassian-api-token",
    "facebook-access-token",
    "notion-api-token",
    "perplexity-api-key",
    "slack-app-token",
    "slack-bot-token",
    "slack-user-token",
    "slack-webhook-url",
    "snyk-api-token",
    "vault-service-token",
}
"""Providers whose every published fake has to be found."""


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> LeakGuard:
    return LeakGuard(dict, Kingfisher(tmp_path_factory.mktemp("rules")))


def hits(guard: LeakGuard, text: str) -> bool:
    result = {"content": [{"type": "text", "text": text}]}
    data = json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode()
    return bool(guard.clean(data)[1])


def test_recall_and_false_positives_are_measured_and_printed(
    guard: LeakGuard, measured: Callable[[str], None]
):
    path: Path = cases("secrets") / "gitleaks_static.json"
    published = json.loads(path.read_bytes())
    found, asked = Counter[str](), Counter[str]()
    for case in published["positive"]:
        asked[case["rule"]] += 1
        found[case["rule"]] += hits(guard, base64.b64decode(case["b64"]).decode())
    wrong = [
        case["rule"]
        for case in published["negative"]
        if hits(guard, base64.b64decode(case["b64"]).decode())
    ]
    recall = sum(found.values()) / sum(asked.values())
    false = len(wrong) / len(published["negative"])
    missed = {rule: asked[rule] - found[rule] for rule in asked if found[rule] < asked[rule]}
    measured(
        f"leak guard: recall {recall:.0%} of {sum(asked.values())}, "
        f"false positives {false:.1%} of {len(published['negative'])}; missed {missed}"
    )
    assert not COMMON & missed.keys()
    assert asked.keys() >= COMMON
    assert recall > 0.9
    assert false < 0.02
