"""Sessions of the 2025 era: bound to who opened them, and authority for nothing.

A session id is only an address. Each request proves its identity and task anew; the binding here
makes a stolen id useless and keeps one agent from speaking in another's session.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from remit.model.errors import NotFoundError, UnavailableError, UpstreamError

_MAX_ID = 1024


@dataclass(frozen=True, slots=True)
class Session:
    """Whose session it is; ``task`` is the task under whose token it was opened, if any."""

    upstream: str
    id: str
    owner: str
    task: str | None


class Sessions:
    """The bounded book of open sessions. All times are seconds of a monotonic clock."""

    def __init__(
        self,
        *,
        limit: int,
        limit_per_owner: int,
        idle_seconds: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._limit_per_owner = limit_per_owner
        self._idle_seconds = idle_seconds
        self._now = now
        self._book: OrderedDict[tuple[str, str], tuple[Session, float]] = OrderedDict()
        self._owners: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._book)

    def require_room(self, owner: str) -> None:
        """Refuse to open another session past the limits.

        Raises:
            UnavailableError: there are too many already, in all or of this owner.
        """
        if len(self._book) >= self._limit or self._owners[owner] >= self._limit_per_owner:
            raise UnavailableError("too many sessions are open")

    def open(self, session: Session) -> None:
        """Bind an id that the upstream chose to the caller that opened it.

        Raises:
            UpstreamError: the upstream gave an id away twice, or one that cannot be an id.
        """
        key = (session.upstream, session.id)
        if not session.id or len(session.id) > _MAX_ID or key in self._book:
            raise UpstreamError(f"upstream `{session.upstream}` opened a session with a bad id")
        self._book[key] = (session, self._now())
        self._owners[session.owner] += 1

    def require(self, upstream: str, session_id: str, owner: str, task: str | None) -> Session:
        """Return the session if it is this caller's, under this task, at this upstream.

        Raises:
            NotFoundError: it is not, or there is none: the two look the same.
        """
        found = self._book.get((upstream, session_id))
        if found is None or found[0].owner != owner or found[0].task != task:
            raise NotFoundError("session not found")
        self._book[upstream, session_id] = (found[0], self._now())
        self._book.move_to_end((upstream, session_id))
        return found[0]

    def close(self, upstream: str, session_id: str) -> None:
        """Forget a session; forgetting an unknown one is no error."""
        found = self._book.pop((upstream, session_id), None)
        if found is not None:
            self._owners[found[0].owner] -= 1
            if not self._owners[found[0].owner]:
                del self._owners[found[0].owner]

    def expired(self) -> list[Session]:
        """Forget and return the sessions that were idle for too long."""
        gone = []
        oldest_allowed = self._now() - self._idle_seconds
        while self._book:
            session, touched = next(iter(self._book.values()))
            if touched > oldest_allowed:
                break
            gone.append(session)
            self.close(session.upstream, session.id)
        return gone
