"""Finds a decision in evidence, opens its facts, and has policy make it again."""

from __future__ import annotations

from typing import Any

from remit.api.answers import plain
from remit.app.compose import House
from remit.model.errors import NotFoundError
from remit.policy.bundle import Bundle
from remit.policy.explain import explain as explain_again


async def explain(house: House, decision: str) -> dict[str, Any]:
    """Return why a decision came out as it did.

    Raises:
        NotFoundError: there is no such decision, or its facts or its bundle are gone.
    """
    ledger = house.authority.evidence
    found = [r for _, r in await ledger.find(decision) if r.kind == "call.decided"]
    if not found:
        raise NotFoundError(f"the log knows no decision `{decision}`")
    record = found[0]
    facts = await ledger.open_payload(record.id, "facts")
    if facts is None:
        raise NotFoundError(f"the facts of decision `{decision}` were erased")
    bundle = Bundle.of(house.bundles.files(str(record.body["bundle"])))
    explained = explain_again(record.body, facts.data, bundle)
    return {
        "decision": decision,
        "call": record.call,
        "task": record.task,
        "at": record.at.isoformat(),
        "target": record.body["target"],
        "bundle": record.body["bundle"],
        **plain(explained),
    }
