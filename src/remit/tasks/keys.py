"""The keys that templates, requests and signed mandates share, read strictly.

Every key is known or refused, and a refusal says where it stands and what may stand there: a
misspelt restriction must never be silently no restriction.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, NoReturn, TypeVar

from remit.model.call import CALL_TOOL, GET_PROMPT, READ_RESOURCE
from remit.model.errors import RemitError
from remit.model.label import Confidentiality
from remit.model.mandate import AmountLimit, Capability
from remit.model.subject import Environment
from remit.tasks.schemas import (
    MAX_ASKED_PATTERNS,
    SchemaError,
    compile_schema,
    patterns_in,
    reference_in,
)

E = TypeVar("E", bound=StrEnum)

MAX_TEXT = 4000
MAX_ITEMS = 200
MAX_CALLS = 1_000_000
MAX_SECONDS = 31 * 86_400
_MAX_NAME = 128
_ACTIONS = {"tool": CALL_TOOL, "resource": READ_RESOURCE, "prompt": GET_PROMPT}
_UPSTREAM = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}\Z")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}\Z")
_HOST = re.compile(
    r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*(:\d+)?\Z"
)
_AMOUNT = re.compile(r"(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?\Z")


@dataclass(frozen=True, slots=True)
class Keys:
    """One table of keys, where it stands (``path``), and which error its reader raises."""

    data: Mapping[str, Any]
    error: type[RemitError]
    where: str = ""
    path: str = ""

    def fail(self, key: str, rule: str) -> NoReturn:
        """Raise this reader's error about one key."""
        place = f"{self.where}: " if self.where else ""
        raise self.error(f"{place}`{self._at(key)}` {rule}")

    def only(self, *allowed: str) -> None:
        """Refuse every key that is not one of these."""
        for key in self.data:
            if key not in allowed:
                known = ", ".join(f"`{name}`" for name in sorted(allowed))
                self.fail(str(key)[:_MAX_NAME], f"is not a key here: allowed are {known}")

    def below(self, key: str, value: Any, index: int | None = None) -> Keys:
        """Return the reader of a table that stands under ``key``."""
        at = key if index is None else f"{key}[{index}]"
        if not isinstance(value, Mapping):
            self.fail(at, "is not a table")
        return Keys(value, self.error, self.where, self._at(at))

    def text(self, key: str, *, limit: int = MAX_TEXT) -> str | None:
        """Return a non-empty string without control characters."""
        value = self.data.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or not value.strip():
            self.fail(key, "is not a text, or an empty one")
        if len(value) > limit or not _encodable(value):
            self.fail(key, f"is longer than {limit} characters, or is not Unicode text")
        return value

    def line(self, key: str, *, limit: int = 256) -> str | None:
        """Return a text of one printable line."""
        value = self.text(key, limit=limit)
        if value is not None and not value.isprintable():
            self.fail(key, "holds a character that does not print")
        return value

    def name(self, key: str) -> str | None:
        """Return a name: letters, digits, ``.``, ``_`` and ``-``."""
        value = self.text(key, limit=_MAX_NAME)
        if value is not None and not _NAME.match(value):
            self.fail(key, "is not a name of letters, digits, `.`, `_` and `-`")
        return value

    def flag(self, key: str) -> bool:
        """Return a boolean, false where it is left out."""
        value = self.data.get(key, False)
        if not isinstance(value, bool):
            self.fail(key, "is not true or false")
        return value

    def whole(self, key: str, *, most: int, least: int = 1) -> int | None:
        """Return a whole number from ``least`` to ``most``."""
        value = self.data.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.fail(key, f"is not a whole number from {least} to {most}")
        return value

    def seconds(self, key: str) -> float | None:
        """Return a positive, finite number of seconds."""
        value = self.data.get(key)
        if value is None:
            return None
        good = not isinstance(value, bool) and isinstance(value, int | float)
        if not good or not math.isfinite(value) or not 0 < value <= MAX_SECONDS:
            self.fail(key, f"is not a number of seconds above 0, at most {MAX_SECONDS}")
        return float(value)

    def items(self, key: str) -> Sequence[Any] | None:
        """Return a list of at most 200 items."""
        value = self.data.get(key)
        if value is None:
            return None
        if not isinstance(value, list | tuple) or len(value) > MAX_ITEMS:
            self.fail(key, f"is not a list of at most {MAX_ITEMS} items")
        return value

    def environments(self, key: str) -> tuple[Environment, ...] | None:
        """Return target environments."""
        return self._members(key, Environment)

    def ceiling(self, key: str) -> Confidentiality | None:
        """Return a confidentiality level by its word."""
        value = self.data.get(key)
        if value is None:
            return None
        words = {level.word: level for level in Confidentiality}
        if not isinstance(value, str) or value not in words:
            self.fail(key, f"is none of {', '.join(f'`{word}`' for word in words)}")
        return words[value]

    def hosts(self, key: str) -> tuple[str, ...] | None:
        """Return host names, lower-case, each with an optional port."""
        values = self.items(key)
        for value in values or ():
            if not isinstance(value, str) or not _HOST.match(value):
                self.fail(key, "holds something other than lower-case host names (`host[:port]`)")
        return None if values is None else tuple(dict.fromkeys(values))

    def capabilities(self, key: str, *, references: bool) -> tuple[Capability, ...] | None:
        """Return capabilities; ``references`` says whether their schemas may use ``$ref``.

        Where they may not, the schemas are a request's, and are held to what that may cost.
        """
        values = self.items(key)
        if values is None:
            return None
        if not references and patterns_in(values) > MAX_ASKED_PATTERNS:
            self.fail(key, f"holds more than {MAX_ASKED_PATTERNS} patterns, all schemas together")
        return tuple(
            self.below(key, value, index).capability(references=references)
            for index, value in enumerate(values)
        )

    def capability(self, *, references: bool) -> Capability:
        """Return the one capability this table spells out."""
        self.only(*_ACTIONS, "args", "other_args", "approval")
        kinds = [kind for kind in _ACTIONS if kind in self.data]
        if len(kinds) != 1:
            self.fail("tool", "has to be given, or `resource`, or `prompt`: exactly one of them")
        target = self.target(kinds[0])
        args = self.below("args", self.data.get("args", {}))
        if kinds[0] == "resource" and (args.data or self.flag("other_args")):
            self.fail("args", "cannot be given for a resource: its target says it all")
        if len(args.data) > MAX_ITEMS:
            self.fail("args", f"names more than {MAX_ITEMS} arguments")
        for name, schema in args.data.items():
            args.schema(name, schema, references=references)
        return Capability(
            target=target,
            action=_ACTIONS[kinds[0]],
            args=dict(args.data),
            other_args=self.flag("other_args"),
            approval=self.name("approval"),
        )

    def target(self, kind: str) -> str:
        """Return a target, ``upstream/name``; a resource's may end in ``*``."""
        value = self.line(kind, limit=2048) or ""
        upstream, slash, name = value.partition("/")
        if not slash or not name or not _UPSTREAM.match(upstream):
            self.fail(kind, "is not a target: write `upstream/name`")
        if kind == "resource":
            self._check_pattern(kind, name)
        elif "*" in name:
            self.fail(kind, "holds `*`: name each tool and prompt; only resources take a `*`")
        return value

    def schema(self, name: str, schema: Any, *, references: bool) -> None:
        """Check one argument's schema."""
        try:
            # Stricter than the compiler: TOML has dates and NaN, and a mandate is JSON.
            json.dumps(schema, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            self.fail(name, "holds a value that JSON does not have")
        try:
            compile_schema(schema, asked=not references)
        except SchemaError as error:
            self.fail(name, str(error))
        if not references and (keyword := reference_in(schema)) is not None:
            self.fail(name, f"holds `{keyword}`: a request's schema refers to nothing")

    def amount(self, key: str) -> Decimal:
        """Return an amount: a number or numeric string, not negative, exact to 18 places."""
        value = parse_amount(self.data.get(key))
        if value is None:
            self.fail(key, "is not an amount: a number from 0, at most 18 digits and 18 places")
        return value

    def amounts(self) -> tuple[tuple[AmountLimit, ...], dict[str, Decimal]]:
        """Return this table's amounts: those with their sources, and those of a bare number."""
        counted: list[AmountLimit] = []
        bare: dict[str, Decimal] = {}
        for name, value in self.data.items():
            if not _NAME.match(name):
                self.fail(name[:_MAX_NAME], "is not a name of letters, digits, `.`, `_` and `-`")
            if not isinstance(value, Mapping):
                bare[name] = self.amount(name)
                continue
            table = self.below(name, value)
            table.only("limit", "tool", "argument", "from")
            limit = table.amount("limit")
            sources = table.items("from")
            if (sources is None) == ("tool" not in value):
                table.fail(
                    "tool", "with `argument` has to be given, or a list `from` of such pairs"
                )
            rows = [table] if sources is None else []
            rows += [table.below("from", row, index) for index, row in enumerate(sources or ())]
            if sources is not None and not rows:
                table.fail("from", "is empty: an amount that counts nothing bounds nothing")
            for row in rows:
                if row is not table:
                    row.only("tool", "argument")
                argument = row.text("argument", limit=_MAX_NAME)
                if argument is None:
                    row.fail("argument", "is missing: it says which argument is counted")
                counted.append(
                    AmountLimit(
                        name=name, limit=limit, target=row.target("tool"), argument=argument
                    )
                )
        return tuple(counted), bare

    def _check_pattern(self, kind: str, name: str) -> None:
        prefix, star, rest = name.partition("*")
        if star and rest:
            self.fail(kind, "may hold one `*`, at its very end")
        scheme, colon, after = prefix.partition(":")
        if star and prefix:
            whole = bool(colon and scheme)
            if after.startswith("//"):
                whole = whole and "/" in after[2:]
            if not whole:
                self.fail(
                    kind, "has its `*` inside the scheme or host: end the host with `/` first"
                )

    def _members(self, key: str, kind: type[E]) -> tuple[E, ...] | None:
        values = self.items(key)
        known = {str(member.value): member for member in kind}
        for value in values or ():
            if not isinstance(value, str) or value not in known:
                self.fail(key, f"holds none of {', '.join(f'`{word}`' for word in known)}")
        return None if values is None else tuple(dict.fromkeys(known[v] for v in values))

    def _at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key


def parse_amount(value: Any) -> Decimal | None:
    """Return the amount a number or numeric string stands for, or None if it is none.

    Not an amount: booleans, NaN, infinities, anything negative (it would add to a budget), more
    than 18 digits before or after the point, exponents and spellings that programs read apart
    (``1e3``, ``0x10``, ``007``, ``1_000``, `` 1``).
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, Decimal | float):
        number = Decimal(repr(value)) if isinstance(value, float) else value
        if not number.is_finite():
            return None
        text = format(number, "f")
    elif isinstance(value, int):
        if not 0 <= value < 10**18:
            return None
        text = str(value)
    elif isinstance(value, str):
        text = value
    else:
        return None
    return Decimal(text) if len(text) <= 40 and _AMOUNT.match(text) else None  # noqa: PLR2004 - the two 18s, a point and slack


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
