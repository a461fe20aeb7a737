"""When something outside was last heard of, and what went wrong: from real use, never from probing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

from remit.model.errors import BrokerError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """The last answer and the last failure. All None: it was not used since the start."""

    last_answered: datetime | None = None
    last_failed: datetime | None = None
    last_error: str | None = None


class Contacts:
    """What became of the last use of each, by name."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._known: dict[str, Contact] = {}

    def noted(self, name: str, trouble: str | None) -> None:
        """Note one use: ``trouble`` says what went wrong, None that it answered."""
        before, now = self._known.get(name, Contact()), self._clock()
        self._known[name] = (
            replace(before, last_answered=now)
            if trouble is None
            else replace(before, last_failed=now, last_error=trouble)
        )

    async def watch(self, name: str, asking: Awaitable[T]) -> T:
        """Await a broker's answer, and note it, or why there was none."""
        try:
            answer = await asking
        except BrokerError as error:
            self.noted(name, error.reason)
            raise
        self.noted(name, None)
        return answer

    def among(self, names: Iterable[str]) -> Mapping[str, Contact]:
        """Return what is known of each of these."""
        return {name: self._known.get(name, Contact()) for name in names}
