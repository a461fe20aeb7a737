"""Draws the chain of a task: one branch for each call, and one for each lease of the whole task.

What was delegated of it hangs below the line that says so, a chain of its own.
"""

from __future__ import annotations

from typing import Any

from rich.text import Text
from rich.tree import Tree

_STYLES = {
    "denied": "red",
    "failed": "red",
    "unidentified": "red",
    "unadmitted": "red",
    "unknown": "yellow",
    "asked": "yellow",
    "succeeded": "green",
    "completed": "green",
    "sealed": "green",
}


def draw(chain: dict[str, Any]) -> Tree:
    """Return a task's chain as a tree; its texts have to be printable already.

    ``chain["delegated"]`` holds the chains of the tasks below, by their ids, where they were asked for.
    """
    tree = Tree(Text(chain["task"], style="bold"))
    below = chain.get("delegated", {})
    calls: dict[str, Tree] = {}
    leases = _of_the_task(chain["records"], tree)
    for record in chain["records"]:
        call = record.get("call")
        lease = leases.get(record["body"].get("lease"))
        if call is not None:
            # What a call does with its task's lease is a step of the call as well.
            if call not in calls:
                calls[call] = tree.add(Text(call, style="bold"))
            calls[call].add(line(record))
        if lease is not None:
            lease.add(record)
        elif call is None:
            branch = tree.add(line(record))
            child = below.get(record["body"].get("child"))
            if record["kind"] == "task.delegated" and child is not None:
                branch.add(draw(child))
    for lease in leases.values():
        lease.close()
    if not chain["sealed"]:
        tree.add(Text("not sealed: the task is open, or its end is not recorded", style="yellow"))
    return tree


class _Branch:
    """A lease of the whole task: it is taken, used by several calls, and ended, in one place."""

    def __init__(self, reserved: dict[str, Any], first: str | None, tree: Tree) -> None:
        self._tree = tree
        self._body = reserved["body"]
        self._branch: Tree | None = None
        self._users = [] if first is None else [first]
        self._used: list[dict[str, Any]] = []
        self._issued = False

    def add(self, record: dict[str, Any]) -> None:
        if self._branch is None:
            self._branch = self._tree.add(Text(self._body["lease"], style="bold"))
        if record["kind"] == "lease.used":
            self._used.append(record)
            return
        self._issued = self._issued or record["kind"] == "lease.issued"
        self._told_uses(self._branch)
        self._branch.add(line(record))

    def close(self) -> None:
        """Say in its head what it was for, and how many calls used it."""
        if self._branch is None:
            return
        self._told_uses(self._branch)
        body, count = self._body, len(self._users) if self._issued else 0
        used = "used by no call" if not count else f"used by {count} call{'s'[: count > 1]}"
        self._branch.label = Text.assemble(
            (body["lease"], "bold"),
            f"  for the whole task, by {body['broker']} for {body['target']}: {used}",
        )

    def _told_uses(self, branch: Tree) -> None:
        """Write the uses since the last line as one: again, for its first call took the lease."""
        if not self._used:
            return
        calls = [str(each.get("call")) for each in self._used]
        told = line({**self._used[0], "body": {}})
        many = f"{len(calls)} calls: " if len(calls) > 1 else ""
        told.append(f"  again by {many}{', '.join(calls)}")
        branch.add(told)
        self._users += calls
        self._used = []


def _of_the_task(records: list[dict[str, Any]], tree: Tree) -> dict[str, _Branch]:
    """Return a branch for every lease that was taken for the whole task."""
    decided = {
        record["body"].get("decision"): record.get("call")
        for record in records
        if record["kind"] == "call.decided"
    }
    return {
        record["body"]["lease"]: _Branch(record, decided.get(record["body"]["detail"]), tree)
        for record in records
        if record["kind"] == "lease.reserved" and record["body"].get("scope") == "task"
    }


def line(record: dict[str, Any]) -> Text:
    """Return one record in words."""
    kind = record["kind"]
    drawn = Text()
    drawn.append(record["at"][11:23], style="dim")
    drawn.append(f" #{record['index']} ", style="dim")
    drawn.append(kind, style=_STYLES.get(kind.rpartition(".")[2], "cyan"))
    body = record["body"]
    if kind.startswith(("lease.", "credential.")):
        said = _of_lease(kind, body)
    else:
        said = [str(body[key]) for key in _SHOWN if body.get(key) not in (None, "")]
    if kind == "task.opened" and body.get("prompt"):
        said.append(f"prompt {body['prompt'][:19]}…")
    if body.get("ended_with"):
        said.append(f"with {body['ended_with']}, above it")
    if said:
        drawn.append("  " + "  ".join(said))
    return drawn


def _of_lease(kind: str, body: dict[str, Any]) -> list[str]:
    """Say in words what became of a credential; its lease's id ties the lines of one together."""
    state = kind.partition(".")[2]
    said = [body.get("lease"), body.get("name")]
    if state in {"reserved", "issued"}:
        said += [f"by {body['broker']} for {body['target']}", f"until {body['expires_at'][:19]}Z"]
    elif state == "settled":
        ran_out = not body["confirmed"] and body.get("revocation") == "at_expiry"
        said.append(_RAN_OUT if ran_out else _CONFIRMED[body["confirmed"]])
    if body.get("by"):
        said.append(f"by {body['by']}")
    detail = body.get("why") or body.get("detail")
    if detail and not detail.startswith("dec_"):  # the decision is a record of its own
        said.append(detail)
    return [str(each) for each in said if each]


_CONFIRMED = {
    True: "confirmed: the target, asked afterwards, refuses it",
    False: "not confirmed: the target cannot be asked",
    None: "the target was not asked",
}
_RAN_OUT = "it has run out; the target cannot be asked"
_SHOWN = ("effect", "target", "reason", "child", "workload", "template", "detail", "records")
