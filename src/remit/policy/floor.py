"""What no bundle can permit: authority only narrows, whatever a policy says.

The default bundle refuses all of this itself, with better words and remedies. This is what is left
standing when somebody's own bundle forgot to.
"""

from __future__ import annotations

from remit.model.catalogue import ToolState
from remit.model.decision import Reason
from remit.model.subject import AgentState
from remit.policy.facts import Facts
from remit.policy.source import filled

BEYOND = "remit.beyond_authority"
"""Stands where a policy id would, when policy permitted what no policy can."""
ASKED = "remit.approval_asked"
"""Stands where a policy id would, when only the mandate asked for approval."""


def beyond(facts: Facts) -> Reason | None:
    """Return why no policy can permit this, or None."""
    mandate, tool = facts.context["mandate"], facts.context["tool"]
    subject = facts.context["subject"]
    faults = (
        (subject["state"] != AgentState.ACTIVE, "the agent {agent} is not active"),
        (
            mandate["depth"] > subject["max_depth"],
            "the task is {depth} delegations deep, and the agent {agent} may act {max_depth} deep",
        ),
        (not facts.context["task"]["open"], "the task is closed"),
        (mandate["expired"], "the mandate has expired"),
        (not mandate["in_mandate"], "the mandate does not include {target}"),
        (not mandate["in_template"], "the template {template} does not include {target}"),
        (bool(mandate["violations"]), "an argument is out of bounds: {violations}"),
        (bool(mandate["exhausted"]), "the budget is spent: {exhausted}"),
        (tool["state"] != ToolState.ACCEPTED, "{target} is not accepted in the catalogue"),
    )
    for fault, words in faults:
        if fault:
            return Reason(
                policy=BEYOND, sentence=f"{filled(words, facts)}, and no policy can permit it"
            )
    return None


def still_asked(facts: Facts) -> Reason | None:
    """Return that the mandate asks for an approval which is not there, or None."""
    role, approval = facts.context["mandate"]["approval_role"], facts.context["approval"]
    if not role or (approval["present"] and approval["role"] == role):
        return None
    return Reason(
        policy=ASKED,
        sentence=filled("the mandate asks {role} to approve each call of {target}", facts),
        remedy=filled("{role} approves this exact call, and it is made again", facts),
    )
