"""Our decision beside a bare `cedarpy` call with everything parsed, at 10, 100 and 1,000 policies.

The bare call is what a careful user of the library writes: parsed policies, entities and schema, the
context as text, schema-checked. Ours is `Policy.decide`, whole: facts gathered from the nouns, the
vault's bytes made, the decision with its reasons. `fresh` never repeats a question's facts, `again`
always does. The two sides of a pair run in turns, so that a busy machine weighs on both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import cedarpy

from remit.model.call import Call
from remit.model.catalogue import Tool, ToolState
from remit.model.label import Confidentiality
from remit.model.mandate import Budget, Capability, Mandate, Template
from remit.model.subject import Agent, Environment, SpiffeId, Subject
from remit.model.task import Bounds, Task
from remit.policy.bundle import Bundle
from remit.policy.engine import Policy, Question
from remit.policy.facts import Facts
from remit.policy.loading import default_folder, read_folder
from remit.policy.schema import builtin_text

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
ACTIONS = ("call_tool", "read_resource", "get_prompt")


def bundle_of(count: int) -> Bundle:
    """The default bundle, and forbids on one target each up to `count`, over the three actions."""
    files = dict(read_folder(default_folder()))
    shipped = len(Bundle.of(files).sources)
    extra = [
        f'@id("extra_{n}") @reason("no") forbid (principal, action == Action::"{ACTIONS[n % 3]}",'
        f' resource == Target::"upstream/tool_{n}") unless {{ context.arguments.hasTag("branch") &&'
        f' context.arguments.getTag("branch") == "main" && context.subject.autonomy > 2 }};'
        for n in range(max(0, count - shipped))
    ]
    files["90-extra.cedar"] = "\n".join(extra).encode()
    return Bundle.of(files)


def question(number: int) -> Question:
    """One permitted call; `number` is in its arguments."""
    workload = SpiffeId("example.org", "/agent/coder")
    capability = Capability(target="git/git_commit", other_args=True)
    bounds = {"data_ceiling": Confidentiality.INTERNAL, "environments": (Environment.DEV,)}
    agent = Agent(
        name="coder",
        spiffe_id=workload,
        owner="ada@example.org",
        purpose="commits",
        environment=Environment.DEV,
        registered_at=NOW,
    )
    mandate = Mandate(
        id="task_1",
        purpose="commit",
        prompt=None,
        template="code.commit",
        template_digest="",
        workload=workload,
        on_behalf_of="user:u-1",
        opened_by="agent:coder",
        capabilities=(capability,),
        egress=(),
        budget=Budget(calls=5),
        issued_at=NOW,
        expires_at=NOW + timedelta(hours=1),
        **bounds,
    )
    template = Template(name="code.commit", purpose="commit", capabilities=(capability,), **bounds)
    digest = "sha256:" + "0" * 64
    return Question(
        subject=Subject(
            workload=workload,
            agent=agent,
            method="jwt-svid",
            issuer="spiffe://example.org",
            credential="0" * 64,
            expires_at=NOW + timedelta(minutes=5),
        ),
        task=Task(mandate=mandate, template=template, signed_mandate="", mandate_digest=digest),
        call=Call(
            id="call_1",
            action="call_tool",
            upstream="git",
            name="git_commit",
            arguments={"branch": "feature/x", "message": f"change {number}", "files": ["a", "b"]},
            digest=digest,
        ),
        tool=Tool(
            target="git/git_commit",
            kind="tool",
            state=ToolState.ACCEPTED,
            definition_digest=digest,
            seen_digest=digest,
            environment=Environment.DEV,
        ),
        bounds=Bounds(in_template=True, in_mandate=True, calls_left=5),
        approval=None,
        now=NOW,
    )


def bare(bundle: Bundle, facts: Facts) -> Callable[[], Any]:
    """The library alone, with every fact, every policy and the whole schema, all parsed."""
    kinds = ("Arguments", "Numbers", "Decimals", "ArgumentTypes")
    fields = ("arguments", "numbers", "decimals", "argument_types")
    context = dict(facts.context)
    entities = []
    for kind, name in zip(kinds, fields, strict=True):
        uid = {"type": kind, "id": "call"}
        context[name] = uid
        entities.append({"uid": uid, "attrs": {}, "parents": [], "tags": getattr(facts, name)})
    schema = cedarpy.Schema.from_str(builtin_text())
    policies = cedarpy.PolicySet.from_str(
        "\n".join(data.decode() for path, data in bundle.files.items() if path.endswith(".cedar"))
    )
    handle = cedarpy.Entities.from_json_str(json.dumps(entities), schema)
    request = {
        "principal": {"type": "Agent", "id": facts.principal},
        "action": {"type": "Action", "id": facts.action},
        "resource": {"type": "Target", "id": facts.target},
        "context": json.dumps(context),
    }
    result = cedarpy.is_authorized(request, policies, handle, schema=schema)
    assert result.allowed, result.diagnostics.errors
    return lambda: cedarpy.is_authorized(request, policies, handle, schema=schema)


async def measure(count: int, rounds: int, per_round: int) -> dict[str, float]:
    """Microseconds a decision, medians over rounds."""
    bundle = bundle_of(count)
    policy = Policy(bundle)
    same = question(0)
    first = await policy.decide(same)
    library = bare(bundle, Facts.read(first.facts))
    times: dict[str, list[float]] = {"bare": [], "fresh": [], "again": []}
    for number in range(rounds):
        start = time.perf_counter()
        for _ in range(per_round):
            library()
        times["bare"].append(time.perf_counter() - start)
        questions = [
            replace(same, call=replace(same.call, arguments={"branch": f"b{number}.{n}", "n": n}))
            for n in range(per_round)
        ]
        start = time.perf_counter()
        for other in questions:
            bundle.slices["call_tool"].forget()
            await policy.decide(other)
        times["fresh"].append(time.perf_counter() - start)
        await policy.decide(same)
        start = time.perf_counter()
        for _ in range(per_round):
            await policy.decide(same)
        times["again"].append(time.perf_counter() - start)
    us = {name: statistics.median(t) / per_round * 1e6 for name, t in times.items()}
    return {
        "policies": len(bundle.sources),
        "bare_us": round(us["bare"], 1),
        "fresh_us": round(us["fresh"], 1),
        "again_us": round(us["again"], 1),
        "fresh_ratio": round(us["fresh"] / us["bare"], 2),
        "again_ratio": round(us["again"] / us["bare"], 2),
    }


def main() -> None:
    """Print one line a size, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=100)
    options = parser.parse_args()
    rows = [asyncio.run(measure(count, options.rounds, options.calls)) for count in (10, 100, 1000)]
    if options.json:
        json.dump({"decisions": rows}, sys.stdout)
        print()
        return
    for row in rows:
        print(
            f"{row['policies']:>5} policies: bare cedarpy {row['bare_us']:7.1f} us,"
            f" Policy.decide {row['fresh_us']:7.1f} us ({row['fresh_ratio']:.2f}x),"
            f" same facts again {row['again_us']:6.1f} us ({row['again_ratio']:.2f}x)"
        )


if __name__ == "__main__":
    main()
