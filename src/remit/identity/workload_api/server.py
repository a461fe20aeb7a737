"""The Workload API's Unix socket: who may connect, how much, and how it ends.

By default the socket is its owner's alone (mode 0600 in a folder of mode 0700). Shared, it is open
to every local user (0666) in a folder that only its owner can write to, so that nobody can put a
socket of their own in its place.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import cast

import structlog
from grpclib.protocol import H2Protocol
from grpclib.server import Handler, Server

from remit.identity.workload_api.attestation import Attestor, Entries
from remit.identity.workload_api.peer import Peer
from remit.identity.workload_api.ports import Federated, Issuer, Validate
from remit.identity.workload_api.processes import ProcessBook
from remit.identity.workload_api.service import Desk, Limits, Service
from remit.model.errors import ConfigError, RemitError

_MAX_PATH_BYTES = 107

_log = structlog.get_logger()


class WorkloadApi:
    """Serves one trust domain's identities on one Unix socket."""

    def __init__(
        self,
        issuer: Issuer,
        entries: Entries,
        processes: ProcessBook,
        *,
        validate: Validate,
        clock: Callable[[], datetime],
        federated: Federated = dict,
        limits: Limits | None = None,
    ) -> None:
        self._desk = Desk(
            issuer, entries, Attestor(processes), validate, federated, clock, limits or Limits()
        )
        self._connections: set[_Connection] = set()
        self._server: _Server | None = None
        self._path: Path | None = None
        self._inode = (0, 0)

    async def start(self, path: Path, *, shared: bool = False) -> None:
        """Listen at ``path``.

        Raises:
            ConfigError: the path is too long or taken, or its folder is open to others.
        """
        listener = listen(path, shared=shared)
        self._path, self._inode = path, _inode(path)
        self._server = _Server(self._desk, self._connections)
        await self._server.start(sock=listener)
        _log.info("workload api listens", path=str(path), shared=shared)

    def changed(self) -> None:
        """Say that keys, agents or entries changed: every open stream looks again at once."""
        self._desk.wake()

    @property
    def open_streams(self) -> int:
        """How many streams are open now."""
        return self._desk.open_streams.total()

    async def close(self) -> None:
        """End every stream with ``Unavailable``, which clients retry, and stop listening."""
        if self._server is None:
            return
        server, self._server = self._server, None
        self._desk.closing = True
        self._desk.wake()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._desk.limits.close_seconds):
                await self._desk.idle.wait()
        server.close()
        for connection in list(self._connections):
            connection.end()
        await server.wait_closed()
        self._remove()

    def _remove(self) -> None:
        if self._path is None:
            return
        # Another authority may have taken the path since; its socket is not ours to remove.
        if _inode(self._path) == self._inode:
            self._path.unlink(missing_ok=True)


def listen(path: Path, *, shared: bool = False) -> socket.socket:
    """Bind a Unix socket at ``path`` with its final mode, making its folder where it is missing.

    Raises:
        ConfigError: the path is too long or taken, or its folder is open to others.
    """
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise ConfigError(f"`{path}` is too long for a Unix socket: at most 107 bytes")
    _check_folder(path.parent, shared=shared)
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Set before the bind, the mode is there from the first moment (Linux).
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(str(path))
        path.chmod(0o666 if shared else 0o600)
        listener.listen(128)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen at `{path}`: {error.strerror}") from error
    return listener


def _inode(path: Path) -> tuple[int, int]:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return (0, 0)
    return (status.st_dev, status.st_ino)


def _check_folder(folder: Path, *, shared: bool) -> None:
    try:
        folder.mkdir(mode=0o755 if shared else 0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise ConfigError(f"`{folder}` cannot be used: {error.strerror}") from error
    if status.st_uid not in {os.geteuid(), 0}:
        raise ConfigError(f"`{folder}` belongs to another user")
    mode = stat.S_IMODE(status.st_mode)
    if shared and mode & 0o022:
        raise ConfigError(f"`{folder}` can be written by others: chmod go-w it")
    if not shared and mode & 0o077:
        raise ConfigError(f"`{folder}` is open to others: chmod 700 it")


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"`{path}` is in the way, and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            raise ConfigError(f"`{path}` is taken: {error}") from error
    raise ConfigError(f"`{path}` is taken: another process answers there")


class _Server(Server):
    """grpclib's server, with a service of its own for each connection."""

    def __init__(self, desk: Desk, connections: set[_Connection]) -> None:
        super().__init__([])
        self._desk = desk
        self._connections = connections

    def _protocol_factory(self) -> H2Protocol:
        inner = super()._protocol_factory()
        # grpclib asks the event loop for a protocol, and uses nothing of it but the callbacks.
        return cast("H2Protocol", _Connection(inner, self._desk, self._connections))


class _Connection(asyncio.Protocol):
    """One connection: its peer is pinned when it is made, and bounded in what it sends."""

    def __init__(self, inner: H2Protocol, desk: Desk, connections: set[_Connection]) -> None:
        self._inner = inner
        self._desk = desk
        self._connections = connections
        self._peer: Peer | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        handler = cast("Handler", self._inner.handler)
        try:
            self._peer = Peer.of(transport.get_extra_info("socket"))
            handler.mapping = dict(Service(self._desk, self._peer).handlers())
        except (OSError, RemitError) as error:
            _log.info("connection refused", reason=str(error))
        self._connections.add(self)
        self._inner.connection_made(transport)
        if self._peer is None or len(self._connections) > self._desk.limits.connections:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)
        streams = self._inner.processor.streams.values()
        if any(one.data_received > self._desk.limits.request_bytes for one in streams):
            _log.info("connection ended", reason="a request is too long")
            self.abort()

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._inner.connection_lost(exc)
        if self._peer is not None:
            self._peer.close()

    def end(self) -> None:
        """Close, with what is still to be written."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
