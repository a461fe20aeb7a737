"""A bundle: policies, schema and templates, known by one digest, ready to answer.

The digest is the SHA-256 of the RFC 8785 form of the manifest, which gives each file's path its own
SHA-256. A bundle is immutable: a change makes another one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import rfc8785

from remit.model.errors import ConfigError
from remit.model.record import Step
from remit.policy import cedar
from remit.policy.schema import ACTIONS, SCHEMA_FILE, builtin_text
from remit.policy.slices import Slice
from remit.policy.source import Source

TEMPLATES = "templates/"


@dataclass(frozen=True)
class Bundle:
    """What decides. ``files`` are its exact bytes by path, in order of path."""

    files: Mapping[str, bytes] = field(repr=False)
    sources: tuple[Source, ...] = field(repr=False)
    slices: Mapping[str, Slice] = field(repr=False)

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> Bundle:
        """Parse a bundle's files; where there is no schema among them, the code's own is added.

        It takes milliseconds a policy: call it off the event loop.

        Raises:
            ConfigError: a file is not what its name says, or two policies share an id.
        """
        whole = dict(files)
        whole.setdefault(SCHEMA_FILE, builtin_text().encode())
        ordered = {path: whole[path] for path in sorted(whole)}
        sources = parse_sources(ordered)
        for name, times in Counter(source.id for source in sources).items():
            if times > 1:
                raise ConfigError(f"two policies have the id `{name}`")
        schema = text_of(ordered, SCHEMA_FILE)
        slices = {action: Slice(action, sources, schema) for action in ACTIONS}
        return cls(MappingProxyType(ordered), tuple(sources), MappingProxyType(slices))

    @cached_property
    def manifest(self) -> Mapping[str, str]:
        """Each file's path and ``sha256:<hex>``."""
        return {p: f"sha256:{hashlib.sha256(data).hexdigest()}" for p, data in self.files.items()}

    @cached_property
    def digest(self) -> str:
        """``sha256:<hex>`` over the manifest."""
        return f"sha256:{hashlib.sha256(rfc8785.dumps(dict(self.manifest))).hexdigest()}"

    @cached_property
    def by_id(self) -> Mapping[str, Source]:
        """The policies by id."""
        return {source.id: source for source in self.sources}

    @cached_property
    def order(self) -> Mapping[str, int]:
        """Each policy's place, which is the order in which reasons are told."""
        return {source.id: place for place, source in enumerate(self.sources)}

    @property
    def templates(self) -> Mapping[str, bytes]:
        """The mandate templates, as raw TOML by path."""
        return {p: data for p, data in self.files.items() if p.startswith(TEMPLATES)}

    def record(self) -> Step:
        """Return that this bundle became the active one."""
        return Step(
            kind="policy.loaded",
            body={
                "bundle": self.digest,
                "manifest": dict(self.manifest),
                "policies": len(self.sources),
            },
        )


def text_of(files: Mapping[str, bytes], path: str) -> str:
    """Return a file as text.

    Raises:
        ConfigError: it is not UTF-8.
    """
    try:
        return files[path].decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"`{path}` is not UTF-8") from error


def parse_sources(files: Mapping[str, bytes]) -> Sequence[Source]:
    """Return every policy, file by file, in the order in which they are written.

    Raises:
        ConfigError: a file is not Cedar, or holds a template with slots, which nothing would fill.
    """
    sources: list[Source] = []
    for path in files:
        if not path.endswith(".cedar"):
            continue
        try:
            policies, slotted = cedar.parse(text_of(files, path))
        except ConfigError as error:
            raise ConfigError(f"`{path}`: {error}") from error
        if slotted:
            raise ConfigError(f"`{path}` holds a policy with slots, which nothing fills")
        places = sorted(policies, key=lambda name: int(name.removeprefix("policy")))
        sources += [Source.of(place, path, policies[place]) for place in places]
    return sources
