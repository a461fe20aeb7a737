"""The bundles of other trust domains, from a file or an ``https_web`` endpoint, kept fresh.

The rules it enforces (SPIFFE-Federation sections 4 and 5):

- The operator names the trust domain and where its bundle is; a document never names itself.
- An endpoint is asked again after the bundle's refresh hint, within bounds; a file is read again
  when it changes. What cannot be had or does not hold leaves the last good bundle in place, and a
  bundle with a lower sequence number than the last one is refused as a replay.
- https only (WebPKI), no redirects, bounded in size and time.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

import aiohttp
import structlog

from remit.identity.bundle import MAX_BUNDLE_BYTES, Bundle, parse_bundle, require_name
from remit.identity.https import fetch, require_https
from remit.model.errors import ConfigError, InputError, UnavailableError

Clock = Callable[[], datetime]
Listener = Callable[[], None]

MIN_REFRESH_SECONDS = 10
MAX_REFRESH_SECONDS = 3600
FILE_REFRESH_SECONDS = 10
"""How often a bundle's file is looked at."""
_RETRY_SECONDS = 30

log = structlog.get_logger()


class OwnAuthority(Protocol):
    """Our own trust domain, as a source of its bundle."""

    name: str

    def parsed_bundle(self) -> Bundle:
        """Return the bundle as it is now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One federated trust domain, and its bundle's https address or file."""

    trust_domain: str
    bundle: str


@dataclass(slots=True)
class _State:
    peer: Peer
    bundle: Bundle | None = None
    document: bytes = b""
    due_at: datetime | None = None
    trouble: str | None = None


class Federation:
    """Implements ``validation.BundleSource`` over our own authority and its peers."""

    def __init__(
        self,
        own: OwnAuthority,
        peers: Sequence[Peer] = (),
        *,
        session: aiohttp.ClientSession | None = None,
        clock: Clock,
    ) -> None:
        """Take the peers; nothing is fetched before :meth:`refresh`.

        Raises:
            ConfigError: a peer is there twice, is ourselves, has no valid name, or an address that
                is neither https nor a file, or there is no session to fetch with.
        """
        self._own = own
        self._session = session
        self._clock = clock
        self._states: dict[str, _State] = {}
        self._listeners: list[Listener] = []
        for peer in peers:
            self._add(peer)

    def _add(self, peer: Peer) -> None:
        require_name(peer.trust_domain)
        if peer.trust_domain == self._own.name or peer.trust_domain in self._states:
            raise ConfigError(f"trust domain `{peer.trust_domain}` is there twice")
        if "://" in peer.bundle:
            require_https(peer.bundle, "the bundle")
            if self._session is None:
                raise ConfigError(f"there is no client to fetch `{peer.bundle}` with")
        self._states[peer.trust_domain] = _State(peer)

    def bundle_of(self, trust_domain: str) -> Bundle | None:
        """Return a trust domain's bundle; None where it is not known, or not had so far."""
        if trust_domain == self._own.name:
            return self._own.parsed_bundle()
        state = self._states.get(trust_domain)
        return None if state is None else state.bundle

    def bundles(self) -> dict[str, bytes]:
        """Return the federated bundle documents by trust domain, for the Workload API."""
        return {name: s.document for name, s in self._states.items() if s.bundle is not None}

    def troubles(self) -> dict[str, str]:
        """Return what is wrong, by trust domain; empty is healthy."""
        return {name: s.trouble for name, s in self._states.items() if s.trouble is not None}

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` after a federated bundle changed; the answer ends that."""
        self._listeners.append(listener)

        def end() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return end

    async def refresh(self) -> None:
        """Look again at every bundle that is due. Never raises: trouble keeps the last good one."""
        now = self._clock()
        due = [s for s in self._states.values() if s.due_at is None or s.due_at <= now]
        changed = await asyncio.gather(*(self._look(state) for state in due))
        if any(changed):
            for listener in tuple(self._listeners):
                try:
                    listener()
                except Exception:
                    log.exception("a listener for federated bundles failed")

    async def run(self) -> None:
        """Keep the bundles fresh until cancelled."""
        while True:
            await self.refresh()
            now = self._clock()
            waits = [(s.due_at - now).total_seconds() for s in self._states.values() if s.due_at]
            await asyncio.sleep(max(1.0, min(waits, default=MAX_REFRESH_SECONDS)))

    async def _look(self, state: _State) -> bool:
        """Read one bundle again and say whether it changed."""
        name = state.peer.trust_domain
        state.due_at = self._clock() + timedelta(seconds=_RETRY_SECONDS)
        try:
            data = await self._read(state.peer)
            if data == state.document and state.bundle is not None:
                bundle = state.bundle
            else:
                bundle = parse_bundle(name, data)
                _require_newer(bundle, state.bundle)
        except (InputError, UnavailableError) as error:
            if state.trouble is None:
                log.warning("a bundle is not refreshed", trust_domain=name, reason=str(error))
            state.trouble = str(error)
            return False
        seconds = bundle.refresh_seconds if "://" in state.peer.bundle else FILE_REFRESH_SECONDS
        seconds = min(max(seconds, MIN_REFRESH_SECONDS), MAX_REFRESH_SECONDS)
        state.due_at = self._clock() + timedelta(seconds=seconds)
        state.trouble = None
        changed = bundle is not state.bundle
        state.bundle, state.document = bundle, data
        return changed

    async def _read(self, peer: Peer) -> bytes:
        if "://" in peer.bundle:
            if self._session is None:
                raise UnavailableError("there is no client to fetch with")
            return await fetch(self._session, peer.bundle, max_bytes=MAX_BUNDLE_BYTES)
        return await asyncio.to_thread(_read_file, Path(peer.bundle))


def _require_newer(bundle: Bundle, last: Bundle | None) -> None:
    if last is None or last.sequence is None or bundle.sequence is None:
        return
    if bundle.sequence < last.sequence:
        raise InputError(
            f"the bundle of `{bundle.trust_domain}` has sequence {bundle.sequence}, "
            f"and the last one had {last.sequence}"
        )


def _read_file(path: Path) -> bytes:
    try:
        # Without O_NONBLOCK a named pipe would hold this thread for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UnavailableError(f"the bundle `{path}` is not a file")
            return file.read(MAX_BUNDLE_BYTES + 1)
    except OSError as error:
        raise UnavailableError(f"the bundle `{path}` cannot be read") from error
