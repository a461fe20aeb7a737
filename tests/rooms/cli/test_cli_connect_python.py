"""The agent that `remit connect python` prints: what it sends holds at the door, and once."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Self

import httpx2
import pytest

from remit.cli.connect import _text
from remit.identity.dpop import InvalidProofError, Proofs
from remit.model.subject import Possession

URL = "http://127.0.0.1:7480"


class Workload:
    """A Workload API client that always has an identity."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def fetch_jwt_svid(self, audience: set[str]) -> Any:
        return SimpleNamespace(token=f"svid for {min(audience)}")


def test_the_printed_agent_proves_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spiffe", SimpleNamespace(WorkloadApiClient=Workload))
    monkeypatch.setenv("REMIT_AUDIENCE", "remit")
    monkeypatch.setenv("REMIT_TASK", "the task token")
    printed: dict[str, Any] = {}
    exec(_text("python", "coder", ["git", "crm"], None, URL), printed)
    assert hasattr(printed["mcp"], "Client"), "what the printed comment uses is imported"
    auth = printed["Governed"]()
    proofs = Proofs(url=URL, clock=lambda: datetime.now(UTC))
    for _ in range(2):
        request = next(auth.auth_flow(httpx2.Request("POST", f"{URL}/mcp/git?a=b")))
        assert request.headers["remit-task"] == "the task token"
        scheme, _, token = request.headers["authorization"].partition(" ")
        assert (scheme, token) == ("DPoP", "svid for remit")
        sent = Possession(proofs=(request.headers["dpop"],), method="POST", path="/mcp/git")
        shown = proofs.read(sent, token)
        assert shown is not None
        assert shown.key == auth.key.thumbprint
        proofs.use(shown, "somebody")
        with pytest.raises(InvalidProofError, match="used before"):
            proofs.use(shown, "somebody")
