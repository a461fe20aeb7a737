"""The part of a bundle that can answer for one action, parsed once.

A slice holds the policies whose scope names the action, the schema cut down to the facts they read,
and the plan by which each question's facts are cut the same way. So two calls that differ only in
what no policy reads are one question, and the second is answered from memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from remit.policy import cedar
from remit.policy.facts import Facts
from remit.policy.schema import ROOT, Path, is_read, projected, types
from remit.policy.source import Source

MAX_REMEMBERED = 4096
MAX_REMEMBERED_BYTES = 8192
_TAGGED = {
    "arguments": "Arguments",
    "numbers": "Numbers",
    "decimals": "Decimals",
    "argument_types": "ArgumentTypes",
}
_ENTITY = "call"
_Plan = Sequence[tuple[str, "_Plan | None"]]
"""What to take of a record: each attribute, whole (None) or in part."""


class Slice:
    """Every policy for one action, ready to answer."""

    def __init__(self, action: str, sources: Sequence[Source], schema: str) -> None:
        self.action = action
        self.sources = tuple(s for s in sources if action in s.actions)
        reads = frozenset(path for source in self.sources for path in source.reads)
        self._plan = _plan(schema, ROOT, (), reads)
        self._tagged = [name for name in _TAGGED if is_read((name,), reads)]
        # Only a policy that names an upstream needs to know which one the target is in.
        named = msgspec.json.encode([source.est for source in self.sources])
        self._grouped = b"Upstream" in named
        self._schema = cedar.schema(projected(schema, reads))
        self._policies = cedar.handle({s.id: s.est for s in self.sources})
        self._listing = cedar.handle(dict(_for_listing(self.sources)))
        self._remembered: OrderedDict[tuple[str, str, str, str], cedar.Answer] = OrderedDict()

    def ask(self, facts: Facts, *, listing: bool = False) -> cedar.Answer:
        """Return Cedar's answer to these facts; ``listing`` looks past every argument.

        Raises:
            Exception: whatever Cedar's binding raises; the caller denies.
        """
        context, entities = self.cut(facts)
        key = (facts.principal, facts.target, context, entities)
        small = not listing and len(context) + len(entities) <= MAX_REMEMBERED_BYTES
        if small and (known := self._remembered.get(key)) is not None:
            self._remembered.move_to_end(key)
            return known
        request = {
            "principal": {"type": "Agent", "id": facts.principal},
            "action": {"type": "Action", "id": self.action},
            "resource": {"type": "Target", "id": facts.target},
            "context": context,
        }
        answer = cedar.ask(
            self._listing if listing else self._policies,
            request,
            entities or cedar.NO_ENTITIES,
            self._schema,
        )
        if small and not answer.errors:
            self._remembered[key] = answer
            if len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        return answer

    def cut(self, facts: Facts) -> tuple[str, str]:
        """Return the context and the entities, as the text that Cedar is given."""
        context = _take(facts.context, self._plan)
        entities: list[Mapping[str, Any]] = []
        for name in self._tagged:
            kind = _TAGGED[name]
            context[name] = {"type": kind, "id": _ENTITY}
            tags: Mapping[str, Any] = getattr(facts, name)
            uid = {"type": kind, "id": _ENTITY}
            entities.append({"uid": uid, "attrs": {}, "parents": [], "tags": tags})
        if self._grouped:
            entities.append(
                {
                    "uid": {"type": "Target", "id": facts.target},
                    "attrs": {},
                    "parents": [{"type": "Upstream", "id": facts.upstream}],
                }
            )
        text = msgspec.json.encode(entities).decode() if entities else ""
        return msgspec.json.encode(context).decode(), text

    def forget(self) -> None:
        """Drop what was remembered."""
        self._remembered.clear()


def _for_listing(sources: Sequence[Source]) -> Sequence[tuple[str, cedar.Est]]:
    """Leave out what depends on arguments: forbids go, permits count by their scope alone."""
    kept: list[tuple[str, cedar.Est]] = []
    for source in sources:
        if not source.reads_arguments:
            kept.append((source.id, source.est))
        elif not source.forbids:
            kept.append((source.id, {**source.est, "conditions": []}))
    return kept


def _plan(schema: str, type_name: str, above: Path, reads: frozenset[Path]) -> _Plan:
    known = types(schema)
    plan: list[tuple[str, _Plan | None]] = []
    for attribute in known[type_name]:
        path = (*above, attribute.name)
        if attribute.name in _TAGGED and not above:
            continue
        if is_read(path, reads):
            nested = attribute.type in known
            plan.append(
                (attribute.name, _plan(schema, attribute.type, path, reads) if nested else None)
            )
    return plan


def _take(record: Mapping[str, Any], plan: _Plan) -> dict[str, Any]:
    return {
        name: record[name] if inner is None else _take(record[name], inner)
        for name, inner in plan
        if name in record
    }
