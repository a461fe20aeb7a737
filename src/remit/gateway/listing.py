"""What ``tools/list`` shows: what the task could be allowed, byte for byte as the upstream said it."""

from __future__ import annotations

from typing import Any

import msgspec

from remit.gateway import own_tools
from remit.gateway.doorway import Visit, admit
from remit.gateway.house import House
from remit.gateway.messages import peek
from remit.gateway.relay import Held
from remit.gateway.wire import Message
from remit.model.catalogue import Tool, ToolState
from remit.model.errors import UpstreamError
from remit.model.mandate import Template
from remit.model.subject import Agent, Claim, Subject
from remit.policy.catalogue import Definition

KIND = "tool"


class _Listed(msgspec.Struct, rename="camel"):
    name: str
    input_schema: Any = None
    annotations: dict[str, Any] | None = None


_listed = msgspec.json.Decoder(_Listed)
_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raw_list = msgspec.json.Decoder(list[msgspec.Raw])
_encoder = msgspec.json.Encoder()


async def filtered(held: Held, house: House, visit: Visit, message: Message) -> Held:
    """Return the listing with only what this caller could be allowed.

    Each kept definition is the upstream's own bytes. An answer that is no listing is left as it is.

    Raises:
        UpstreamError: the listing cannot be read.
        MandateError: the claim carries a task token that admits nothing.
    """
    if not peek(held.data).result:
        return held
    upstream, claim, subject = visit.name, visit.claim, visit.subject
    try:
        whole = _raw_object.decode(held.data)
        result = _raw_object.decode(whole["result"])
        entries = _raw_list.decode(result["tools"])
        tools = observed(house, upstream, entries)
    except (msgspec.DecodeError, KeyError) as error:
        raise UpstreamError(f"upstream `{upstream}` sent a listing that cannot be read") from error
    shown = await _allowed(house, claim, subject, [tool for tool, _ in tools])
    kept = [raw for tool, raw in tools if tool.target in shown]
    if own_tools.offered(claim, subject) and "cursor" not in message.params:
        kept.extend(own_tools.definitions(subject.agent, house.authority.tasks.templates))
    result["tools"] = msgspec.Raw(_encoder.encode(kept))
    if "cacheScope" in result:
        # The listing is this caller's: no shared cache may hold it (MCP 2026-07-28, caching).
        result["cacheScope"] = msgspec.Raw(b'"private"')
    whole["result"] = msgspec.Raw(_encoder.encode(result))
    return held.replaced(_encoder.encode(whole))


def observed(
    house: House, upstream: str, entries: list[msgspec.Raw]
) -> list[tuple[Tool, msgspec.Raw]]:
    """Show the listed definitions to the catalogue; return its word on each, beside the bytes.

    Raises:
        msgspec.DecodeError: an entry is no tool definition.
        InputError: there are more than the catalogue takes.
    """
    listed = [(_listed.decode(raw), raw) for raw in entries]
    listed = [(entry, raw) for entry, raw in listed if entry.name not in own_tools.NAMES]
    # Every entry goes to the catalogue, so that one name with two definitions is noticed there.
    known = house.authority.catalogue.observe(
        upstream,
        KIND,
        [
            Definition(name=entry.name, json_bytes=bytes(raw), hints=entry.annotations or {})
            for entry, raw in listed
        ],
    )
    by_target = {tool.target: tool for tool in known}
    found: dict[str, tuple[Tool, msgspec.Raw]] = {}
    for entry, raw in listed:
        target = f"{upstream}/{entry.name}"
        if target in by_target:
            found.setdefault(target, (by_target[target], raw))
            house.schemas[target] = entry.input_schema
    return list(found.values())


async def _allowed(
    house: House, claim: Claim, subject: Subject, tools: list[Tool]
) -> frozenset[str]:
    """Return the targets to show; a changed definition is withheld until somebody accepts it."""
    authority = house.authority
    accepted = [tool for tool in tools if tool.state is ToolState.ACCEPTED]
    claim = own_tools.with_current(claim, subject, authority.tasks)
    if claim.task_token is not None:
        task = await admit(claim, subject, authority)
        return frozenset(t.target for t in authority.policy.would_list(subject, task, accepted))
    bounds = _gateway_templates(subject.agent, authority.tasks.templates)
    return frozenset(
        tool.target
        for tool in accepted
        if any(tool.target == c.target for t in bounds for c in t.capabilities)
    )


def _gateway_templates(agent: Agent, templates: Any) -> list[Template]:
    return [templates[name] for name in agent.gateway_templates if name in templates]
