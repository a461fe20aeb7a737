"""What tools there are, each pinned to the definition that somebody accepted.

- An upstream's word is a claim. What it lists is pinned by digest at first sight; what changed
  afterwards is withheld until somebody accepts it, and withheld from the moment it is seen.
- Classification is the operator's. An upstream's hints may only raise the risk.
- A target nobody observed is unknown, and policy denies it. The exception is a resource: URIs are
  made up as servers go, so one of a configured upstream stands under that upstream's options, and
  it is the mandate that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

import structlog

from remit.model.catalogue import Tool, ToolState
from remit.model.errors import InputError, NotFoundError
from remit.model.label import Confidentiality, Label
from remit.model.record import Context, Json, Recorder, Step
from remit.model.subject import Environment
from remit.policy.definitions import Claimed, Definition, read_definition

__all__ = ["Catalogue", "CatalogueStore", "Definition", "Entry", "ToolOptions", "UpstreamOptions"]

KINDS = ("tool", "resource", "prompt")
MAX_DEFINITIONS = 2000
"""Of one kind, of one upstream, ever: an upstream that renames its tools cannot fill the memory."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOptions:
    """The operator's word on one target; None leaves it to the upstream's options."""

    environment: Environment | None = None
    side_effects: bool | None = None
    confidentiality: Confidentiality | None = None
    trusted: bool | None = None
    categories: tuple[str, ...] | None = None
    destinations: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamOptions:
    """The operator's word on an upstream.

    ``accept_first`` accepts each definition at first sight (trust on first use); without it, every
    target is withheld until somebody accepts it. ``trusted`` is about what results say: it marks
    them trusted in the task's label, and never lowers a risk.
    """

    environment: Environment = Environment.DEV
    trusted: bool = False
    accept_first: bool = True
    tools: Mapping[str, ToolOptions] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One target as the catalogue keeps it, with both definitions in RFC 8785 form.

    ``pinned`` is the accepted one, empty where none was; ``seen`` what the upstream last claimed.
    ``changes`` is its claim that calling it changes something. ``removed_at`` is set where the
    operator's configuration no longer has it: then it is catalogued no more.
    """

    tool: Tool
    pinned: bytes = field(repr=False)
    seen: bytes = field(repr=False)
    changes: bool | None = None
    accepted_by: str | None = None
    accepted_at: datetime | None = None
    removed_at: datetime | None = None

    def record(self, what: str) -> Step:
        """Return that the target was ``catalogued``, ``changed``, ``accepted`` or ``removed``."""
        body: dict[str, Json] = {
            "target": self.tool.target,
            "kind": self.tool.kind,
            "state": self.tool.state.value,
            "pinned": self.tool.definition_digest or None,
            "seen": self.tool.seen_digest,
            "by": self.accepted_by,
        }
        return Step(kind=f"tool.{what}", body=body)


class CatalogueStore(Protocol):
    """Keeps entries, by target."""

    def put(self, entry: Entry) -> None:
        """Stage an entry's present state; durable at the next barrier."""
        ...

    async def get(self, target: str) -> Entry | None:
        """Return one entry."""
        ...

    async def list(self) -> Sequence[Entry]:
        """Return every entry, by target."""
        ...


class Catalogue:
    """The catalogue of tools, resources and prompts behind the gateway."""

    def __init__(
        self,
        store: CatalogueStore,
        recorder: Recorder,
        *,
        upstreams: Mapping[str, UpstreamOptions],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        for name in upstreams:
            if not name or "/" in name:
                raise InputError(f"`{name}` cannot be an upstream's name: it is empty or has a /")
        self._store = store
        self._recorder = recorder
        self._upstreams = dict(upstreams)
        self._clock = clock
        self._entries: dict[str, Entry] = {}

    async def load(self) -> None:
        """Read what was catalogued before; the operator's options of today apply to it."""
        for entry in await self._store.list():
            upstream, _, _ = entry.tool.target.partition("/")
            if upstream in self._upstreams and entry.removed_at is None:
                self._entries[entry.tool.target] = self._classified(entry)

    def find(self, target: str) -> Tool | None:
        """Return what is known of a target; None is unknown, which policy denies."""
        if (entry := self._entries.get(target)) is not None:
            return entry.tool
        upstream, _, name = target.partition("/")
        if upstream not in self._upstreams or ":" not in name:
            return None
        return self._blank(upstream, "resource", name, state=ToolState.ACCEPTED)

    def observe(
        self, upstream: str, kind: str, definitions: Sequence[Definition]
    ) -> Sequence[Tool]:
        """Take in what an upstream lists: pin what is new, mark what changed.

        A definition that cannot be read is left out, with a warning: where it was known, it is
        withheld; else it stays unknown. The same name twice with two definitions counts as changed.

        Returns:
            What the catalogue now says of each that could be read, in their order.

        Raises:
            InputError: the upstream or kind is not configured, or it lists more than
                ``MAX_DEFINITIONS`` tools or prompts; nothing is changed.
            EvidenceError: it could not be staged.
        """
        if upstream not in self._upstreams or kind not in KINDS:
            raise InputError(f"`{upstream}` is not a configured upstream, or `{kind}` not a kind")
        known = sum(
            1
            for entry in self._entries.values()
            if entry.tool.kind == kind and entry.tool.target.startswith(f"{upstream}/")
        )
        new = {d.name for d in definitions if f"{upstream}/{d.name}" not in self._entries}
        if kind == "resource" and known + len(new) > MAX_DEFINITIONS:
            # Those stand under the upstream's options in any case: nothing is lost but the pin.
            log.warning("too many resources to pin", upstream=upstream, most=MAX_DEFINITIONS)
            definitions = [d for d in definitions if d.name not in new]
            new = set()
        if len(definitions) > MAX_DEFINITIONS or known + len(new) > MAX_DEFINITIONS:
            raise InputError(f"`{upstream}` lists more than {MAX_DEFINITIONS} of kind `{kind}`")
        claims: dict[str, Claimed] = {}
        twice: set[str] = set()
        for definition in definitions:
            claim = self._claim(upstream, kind, definition)
            if claim is None:
                continue
            if claim.name in claims and claims[claim.name].digest != claim.digest:
                twice.add(claim.name)
            claims[claim.name] = claim
        return [
            self._take(upstream, kind, claim, ambiguous=name in twice)
            for name, claim in claims.items()
        ]

    def keep_only(self, upstream: str, names: Collection[str]) -> None:
        """Take out what the operator's configuration no longer has of an upstream; record it once.

        Not for what an upstream lists by itself: it may list something less, and more again.

        Raises:
            EvidenceError: it could not be staged.
        """
        kept = {f"{upstream}/{name}" for name in names}
        for tool in self.list(upstream):
            if tool.target not in kept:
                entry = replace(self._entries.pop(tool.target), removed_at=self._clock())
                self._store.put(entry)
                self._recorder.stage(entry.record("removed"), Context())

    async def accept(self, target: str, by: str) -> Tool:
        """Accept the definition that the upstream shows now, and wait until that is durable.

        Raises:
            NotFoundError: nothing of that name was ever observed.
            EvidenceError: it could not be made durable; the target stays as it was.
        """
        before = self._entries.get(target)
        if before is None:
            raise NotFoundError(f"nothing called `{target}` is catalogued")
        tool = replace(
            before.tool, state=ToolState.ACCEPTED, definition_digest=before.tool.seen_digest
        )
        after = replace(
            before, tool=tool, pinned=before.seen, accepted_by=by, accepted_at=self._clock()
        )
        after = self._classified(after)
        self._store.put(after)
        self._recorder.stage(after.record("accepted"), Context())
        await self._recorder.barrier()
        if self._entries.get(target) is before:
            self._entries[target] = after
            return after.tool
        # The upstream changed it again meanwhile: what was looked at is pinned, the new one is not.
        latest = self._entries[target]
        pinned = replace(
            latest.tool,
            definition_digest=after.tool.definition_digest,
            state=_state(after.tool.definition_digest, latest.tool.seen_digest),
        )
        merged = replace(after, tool=pinned, seen=latest.seen, changes=latest.changes)
        self._entries[target] = self._classified(merged)
        self._store.put(self._entries[target])
        return self._entries[target].tool

    def list(self, upstream: str | None = None) -> Sequence[Tool]:
        """Return what is catalogued, by target."""
        return [
            self._entries[target].tool
            for target in sorted(self._entries)
            if upstream is None or target.startswith(f"{upstream}/")
        ]

    def entry(self, target: str) -> Entry | None:
        """Return a target with the accepted definition and the one seen last, to compare."""
        return self._entries.get(target)

    def _claim(self, upstream: str, kind: str, definition: Definition) -> Claimed | None:
        try:
            return read_definition(definition, kind)
        except InputError as error:
            target = f"{upstream}/{definition.name}"
            log.warning("definition not catalogued", upstream=upstream, reason=str(error))
            if (entry := self._entries.get(target)) is not None:
                self._keep(replace(entry, tool=replace(entry.tool, state=ToolState.CHANGED)))
            return None

    def _take(self, upstream: str, kind: str, claim: Claimed, *, ambiguous: bool) -> Tool:
        before = self._entries.get(f"{upstream}/{claim.name}")
        if before is None:
            accept = self._upstreams[upstream].accept_first and not ambiguous
            tool = replace(
                self._blank(upstream, kind, claim.name, state=ToolState.UNKNOWN),
                state=ToolState.ACCEPTED if accept else ToolState.UNKNOWN,
                definition_digest=claim.digest if accept else "",
                seen_digest=claim.digest,
                first_seen_at=self._clock(),
            )
            entry = Entry(
                tool=tool,
                pinned=claim.definition if accept else b"",
                seen=claim.definition,
                changes=claim.changes,
                accepted_by="first sight" if accept else None,
                accepted_at=tool.first_seen_at if accept else None,
            )
            return self._keep(self._classified(entry), "catalogued")
        pinned = before.tool.definition_digest
        state = ToolState.CHANGED if ambiguous else _state(pinned, claim.digest)
        if before.tool.kind != kind:
            # One name for a tool and a prompt: it is not what was accepted.
            state = ToolState.CHANGED
        if state is before.tool.state and claim.digest == before.tool.seen_digest:
            return before.tool
        tool = replace(before.tool, state=state, seen_digest=claim.digest)
        entry = replace(before, tool=tool, seen=claim.definition, changes=claim.changes)
        return self._keep(self._classified(entry), "changed")

    def _keep(self, entry: Entry, what: str = "changed") -> Tool:
        """Take effect at once: what is withheld is withheld even where that cannot be written."""
        if self._entries.get(entry.tool.target) != entry:
            self._entries[entry.tool.target] = entry
            self._store.put(entry)
            self._recorder.stage(entry.record(what), Context())
        return entry.tool

    def _blank(self, upstream: str, kind: str, name: str, *, state: ToolState) -> Tool:
        tool = Tool(
            target=f"{upstream}/{name}",
            kind=kind,
            state=state,
            definition_digest="",
            seen_digest="",
            environment=self._upstreams[upstream].environment,
        )
        return self._classified(Entry(tool=tool, pinned=b"", seen=b"")).tool

    def _classified(self, entry: Entry) -> Entry:
        """Return the entry under the operator's options, with the upstream's hints only raising."""
        tool = entry.tool
        upstream, _, name = tool.target.partition("/")
        options = self._upstreams[upstream]
        said = options.tools.get(name, ToolOptions())
        changes = said.side_effects
        if changes is None:
            # A tool changes things until the operator says not; reading a resource or a prompt
            # does not, unless its upstream says that it does.
            changes = tool.kind == "tool" or bool(entry.changes)
        label = Label(
            said.confidentiality or Confidentiality.PUBLIC,
            options.trusted if said.trusted is None else said.trusted,
            frozenset(said.categories or ()),
        )
        tool = replace(
            tool,
            environment=said.environment or options.environment,
            side_effects=changes,
            label=label,
            destinations=tuple(said.destinations or ()),
        )
        return replace(entry, tool=tool)


def _state(pinned: str, seen: str) -> ToolState:
    if not pinned:
        return ToolState.UNKNOWN
    return ToolState.ACCEPTED if pinned == seen else ToolState.CHANGED
