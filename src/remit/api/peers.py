"""Who is at the other end of the control socket, for an ASGI application.

uvicorn does not say. :class:`PeerHttp`, given to it as ``http=``, asks the kernel once a connection
and puts the answer into ``scope["extensions"]["remit.peer"]``. :func:`owner_check` then says
whether that peer is the person who runs this authority: the owner's uid, and not an agent. An agent
under the same uid is known by the process that was registered for it, and by descent.
"""

from __future__ import annotations

import asyncio
import pwd
from collections.abc import Mapping
from typing import Any

import structlog

from remit.api.bounded_http import BoundedHttp
from remit.api.callers import ADMIN
from remit.identity.workload_api.peer import Peer
from remit.identity.workload_api.processes import ProcessBook
from remit.model.errors import RemitError, UnidentifiedError
from remit.model.subject import Person

EXTENSION = "remit.peer"

_log = structlog.get_logger()


class PeerHttp(BoundedHttp):
    """uvicorn's HTTP protocol within bounds, which also knows its peer's kernel credentials.

    Serve with ``ws="none"``: an upgraded connection would leave this class. A connection whose
    peer cannot be named (not a Unix socket, or a process of another pid namespace) is closed.
    """

    _peer: Peer | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it as well
        """Pin the peer before the first byte is read."""
        super().connection_made(transport)
        try:
            self._peer = Peer.of(transport.get_extra_info("socket"))
        except (OSError, AttributeError, RemitError) as error:
            _log.info("control connection refused", reason=str(error))
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the peer."""
        super().connection_lost(exc)
        if self._peer is not None:
            self._peer.close()

    def on_message_begin(self) -> None:
        """Put the peer into the scope of the request that begins."""
        super().on_message_begin()
        extensions: dict[str, Any] = self.scope.setdefault("extensions", {})
        extensions[EXTENSION] = self._peer


def peer_of(scope: Mapping[str, Any]) -> Peer:
    """Return the peer of a request on the control socket.

    Raises:
        UnidentifiedError: the request did not come through :class:`PeerHttp`.
    """
    extensions = scope.get("extensions") or {}
    peer = extensions.get(EXTENSION)
    if not isinstance(peer, Peer):
        raise UnidentifiedError("this request did not come over the control socket")
    return peer


def _refusal(agent: str, process_book: ProcessBook) -> str:
    said = f"agent `{agent}` may not use the control socket"
    if not process_book.left_behind(agent):
        return said
    return (
        f"{said}, and since its supervisor was killed you may be it: end what it left behind, ask "
        "from a terminal that is older than it, or start `remit up --forget-agents`"
    )


def owner_check(peer: Peer, owner_uid: int, process_book: ProcessBook) -> Person:
    """Return the person who runs this authority, if that is who the peer is.

    Raises:
        UnidentifiedError: another uid, a process that has gone, or an agent's process.
    """
    if peer.uid != owner_uid:
        raise UnidentifiedError(f"the control socket is the owner's, not uid `{peer.uid}`'s")
    agents = process_book.agents_over(peer.pid)
    if agents:
        process_book.refused(peer.pid, agents)
        raise UnidentifiedError(_refusal(min(agents), process_book))
    # Looked at last: the descent that was read above was this process's, not a successor's.
    if not peer.alive:
        raise UnidentifiedError(f"process `{peer.pid}` has gone")
    try:
        name = pwd.getpwuid(peer.uid).pw_name
    except KeyError:
        name = str(peer.uid)
    return Person(id=f"user:{name}", method="kernel", roles=(ADMIN,))
