"""Makes the leak guard that the configuration asks for: always ours, others' by rules."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remit.app.config import Loaded
from remit.credentials.leases import Leases
from remit.gateway.incoming import note_prompt, require_none
from remit.gateway.leaks import LeakGuard, Scanner
from remit.model.errors import ConfigError
from remit.model.record import Context
from remit.model.task import Task
from remit.spine import Authority

CACHE = "leak-rules"
"""Where in the state folder the compiled rules are kept; it can be deleted at any time."""


async def open_guard(loaded: Loaded, leases: Leases) -> LeakGuard:
    """Return the guard. Compiling the rules takes seconds at the first start, beside the loop.

    Raises:
        ConfigError: rules are asked for, and the scanner is not installed or cannot read them.
    """
    if not loaded.config.leaks.rules:
        return LeakGuard(leases.secrets)
    return LeakGuard(leases.secrets, await asyncio.to_thread(_scanner, loaded.state / CACHE))


@dataclass(frozen=True, slots=True)
class Prompts:
    """Looks through what tasks are asked for with (:class:`remit.api.tasks.Prompts`)."""

    guard: LeakGuard
    authority: Authority

    async def require_none(self, wanted: Mapping[str, Any]) -> None:
        """Refuse what holds a credential that Remit minted, and revoke that."""
        await require_none(wanted, "task", self.guard, self.authority, Context())

    def note(self, wanted: Mapping[str, Any], task: Task) -> None:
        """Leave a finding where it holds somebody else's."""
        note_prompt(self.guard.look(wanted, rules=True), task, self.authority)


def _scanner(cache: Path) -> Scanner:
    try:
        from remit.gateway.kingfisher import Kingfisher  # noqa: PLC0415 - an extra's package
    except ImportError as error:
        raise ConfigError(
            f"`[leaks] rules` needs a package that is not here (`{error.name}`): "
            "run pip install 'remit[leaks]', or leave `rules` out"
        ) from error
    try:
        return Kingfisher(cache)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"`[leaks] rules`: they cannot be compiled in `{cache}`") from error
