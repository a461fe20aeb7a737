"""The processes that hold a credential: each for one lease, and for one session where there is one.

A place is taken before its process starts and given up when the process is dead, so whoever ends a
lease finds every process that has its credential, or is about to.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from remit.gateway.forward import UnreachableError
from remit.gateway.pipe import Pipe
from remit.model.errors import RemitError


@dataclass(slots=True, eq=False)
class Place:
    """One process, from before its start to its end."""

    lease: str
    owner: str
    session: str | None
    starting: asyncio.Task[Pipe]
    ending: asyncio.Task[None] | None = None

    @property
    def pipe(self) -> Pipe | None:
        """The process, once it has started."""
        done = self.starting.done() and not self.starting.cancelled()
        return self.starting.result() if done and self.starting.exception() is None else None

    @property
    def usable(self) -> bool:
        """Whether it starts, or runs and is to go on."""
        pipe = self.pipe
        return self.ending is None and (
            not self.starting.done() or (pipe is not None and pipe.alive)
        )


class Places:
    """Every place of one upstream."""

    def __init__(self) -> None:
        self._places: list[Place] = []

    def __len__(self) -> int:
        return len(self._places)

    def of(self, owner: str) -> int:
        """Return how many are one workload's."""
        return sum(place.owner == owner for place in self._places)

    def in_session(self, session: str) -> list[Pipe]:
        """Return the processes that run for one session."""
        return [
            place.pipe
            for place in self._places
            if place.session == session and place.usable and place.pipe is not None
        ]

    async def at(
        self,
        lease: str,
        owner: str,
        session: str | None,
        start: Callable[[], Coroutine[Any, Any, Pipe]],
    ) -> Pipe:
        """Return the process of a lease; the first who asks has it started, the others wait.

        Nothing is awaited before the place is taken.

        Raises:
            UpstreamError: it did not start; who asks next begins anew.
        """
        for place in self._places:
            same = (place.lease, place.owner, place.session) == (lease, owner, session)
            if same and place.usable:
                return await self._begun(place)
        place = Place(lease, owner, session, asyncio.create_task(start()))
        place.starting.add_done_callback(lambda _: self._started(place))
        self._places.append(place)
        return await self._begun(place)

    async def _begun(self, place: Place) -> Pipe:
        try:
            return await asyncio.shield(place.starting)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if place.ending is None or (current is not None and current.cancelling()):
                raise
            raise UnreachableError("the process was ended before it had started") from None

    def _started(self, place: Place) -> None:
        pipe = place.pipe
        if pipe is None or pipe.ended.is_set():
            self._drop(place)

    def _drop(self, place: Place) -> None:
        if place in self._places:
            self._places.remove(place)

    def ended(self, pipe: Pipe) -> None:
        """Give up the place of a process that died by itself."""
        self._places = [place for place in self._places if place.pipe is not pipe]

    async def let_go(self, lease: str) -> None:
        """End every process that has a lease's credential, and wait until each is dead."""
        await self._end([place for place in self._places if place.lease == lease])

    async def leave(self, session: str) -> None:
        """End every process of a session."""
        await self._end([place for place in self._places if place.session == session])

    async def close(self) -> None:
        """End all."""
        await self._end(list(self._places))

    def idle(self) -> list[tuple[float, Place]]:
        """Return the places where nothing is in flight, each with when it was last used."""
        return [
            (place.pipe.touched, place)
            for place in self._places
            if place.usable and place.pipe is not None and place.pipe.idle
        ]

    def end(self, place: Place) -> asyncio.Task[None]:
        """Begin to end a place."""
        if place.ending is None:
            place.ending = asyncio.create_task(self._ended(place))
        return place.ending

    async def _end(self, places: list[Place]) -> None:
        # Who waits may be cut short; the ending goes on.
        await asyncio.gather(*(asyncio.shield(self.end(place)) for place in places))

    async def _ended(self, place: Place) -> None:
        place.starting.cancel()
        with contextlib.suppress(RemitError, asyncio.CancelledError):
            pipe = await place.starting
            # It has a credential: it is not left to finish what it does.
            await pipe.stop(at_once=True)
        self._drop(place)
