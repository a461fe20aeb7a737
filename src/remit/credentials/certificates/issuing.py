"""What an authority of ours does about one lease, whatever the certificate looks like.

The serial follows from the lease's handle, so that a certificate can be revoked by a row alone, even
one whose signing was never heard of. With a list, nothing is signed before the list is where the
target reads it; without one, a certificate runs out, and that is said.

A probe asks the target itself: with a certificate of the *same serial*, made for the question, that
could do nothing if it were let in. So the asking needs no secret of the lease's, and is not misled
by an address or a command that the lease was held to. That a refusal means the list, and nothing
else, is rehearsed first: one such certificate has to be let in, and after its revocation refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from remit.credentials.certificates.book import Book
from remit.credentials.certificates.files import hand_out, take_back
from remit.credentials.certificates.publishing import Publisher, run_command
from remit.credentials.port import Census, Order, Revocation, Traits
from remit.model.errors import BrokerError, ConfigError, NotMintedError
from remit.model.lease import Credential, Lease

PROBE_SECONDS = 60
_PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """What was signed: values for injection, and those files of it that a program may want.

    ``files``: by the name of the value that is to hold its path, the file's name and text.
    """

    values: Mapping[str, str]
    secrets: tuple[str, ...]
    memo: str
    files: Mapping[str, tuple[str, str]]


class Probe(ABC):
    """A question to the target.

    ``seconds``: how long the target may take to heed a list. ``settle_seconds``: how long a refusal
    has to stand to be believed, where a server may answer with its old self and its new one in turn.
    """

    seconds: float
    settle_seconds: float = 0.0

    @abstractmethod
    async def reach(self) -> None:
        """See that the target is there.

        Raises:
            BrokerError: it is not.
        """

    @abstractmethod
    async def accepts(self, serial: int, until: int) -> bool:
        """Show the target a certificate of a serial that can do nothing; say if it is let in.

        Raises:
            BrokerError: the target could not be asked.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What an authority stands on."""

    book: Book
    clock: Callable[[], datetime]
    installation: str
    publisher: Publisher | None = None
    probe: Probe | None = None
    max_seconds: int | None = None
    key_folder: Path | None = None
    terminate: tuple[str, ...] = ()


class CertificateBroker(ABC):
    """Implements ``credentials.port.Broker``; a subclass says what a certificate looks like."""

    serial_bytes: int = 8

    def __init__(self, house: House) -> None:
        self._house = house
        self._rehearsed = False
        self._rehearsing = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._waiting: dict[int, tuple[int, int]] = {}
        self._waited = self._answered = 0
        if house.publisher is not None:
            house.publisher.begin()

    @abstractmethod
    def check(self, grant: Mapping[str, Any]) -> None:
        """Look at a grant whose references may not be filled in yet."""

    @abstractmethod
    def _sign(self, order: Order, serial: int, now: int, until: int) -> Signed:
        """Sign, on a thread; raise ConfigError, before signing, where the grant makes no sense."""

    @abstractmethod
    def _vet(self, order: Order) -> None:
        """Look at a grant that is filled in.

        Raises:
            ConfigError: it makes no sense.
        """

    @property
    def traits(self) -> Traits:
        """With a list it is taken back at once; with a probe the target is asked."""
        if self._house.publisher is None:
            return Traits(revocation="at_expiry", confirms=False, lists=False)
        return Traits(revocation="immediate", confirms=self._house.probe is not None, lists=True)

    def serial(self, handle: str) -> int:
        """Return the serial that belongs to a handle: never zero, and positive in DER."""
        digest = hashlib.sha256(b"remit certificate serial\0" + handle.encode()).digest()
        number = int.from_bytes(digest[: self.serial_bytes])
        return number >> 1 | 1 << (8 * self.serial_bytes - 2)

    async def issue(self, order: Order) -> Credential:
        """Sign a fresh key; nothing is signed where it could not be revoked.

        Raises:
            NotMintedError: the grant, the time left, the list or the target does not allow it.
        """
        house, handle = self._house, order.lease.handle
        try:
            self._vet(order)
            await self._ready()
            now = int(house.clock().timestamp())
            until = self._until(order.lease, now)
            await asyncio.to_thread(house.book.mint, handle, self.serial(handle), until)
            signed = await asyncio.to_thread(self._sign, order, self.serial(handle), now, until)
            values = dict(signed.values)
            if house.key_folder is not None:
                texts = dict(signed.files.values())
                # Not in a thread: a mint that is cancelled must not write after its revocation.
                paths = hand_out(house.key_folder, handle, texts)
                values |= {value: str(paths[name]) for value, (name, _) in signed.files.items()}
        except NotMintedError:
            raise
        except (BrokerError, ConfigError) as error:
            raise NotMintedError(str(error)) from error
        return Credential(
            values=values,
            secrets=signed.secrets,
            memo=signed.memo,
            expires_at=datetime.fromtimestamp(until, UTC),
        )

    def _until(self, lease: Lease, now: int) -> int:
        until = int(lease.expires_at.timestamp())
        if self._house.max_seconds is not None:
            until = min(until, now + self._house.max_seconds)
        if until <= now:
            raise NotMintedError("the lease has not a whole second left")
        return until

    async def revoke(self, lease: Lease, keep: str | None) -> Revocation:
        """Put the lease's serial on the list, and ask the target; or say until when it lives.

        Raises:
            BrokerError: the list is not in place, or the target takes the certificate still.
        """
        del keep
        house, serial = self._house, self.serial(lease.handle)
        if house.key_folder is not None:
            take_back(house.key_folder, lease.handle)
        now = house.clock()
        known = house.book.get(lease.handle)
        listed_until = max(int(lease.expires_at.timestamp()), int(now.timestamp()))
        place = await asyncio.to_thread(house.book.revoke, lease.handle, serial, listed_until)
        if house.publisher is None:
            signed = known.minted if known is not None else lease.issued_at is not None
            until = datetime.fromtimestamp(known.expires, UTC) if known else lease.expires_at
            if signed and until > now:
                detail = f"serial {serial}: no list is configured, so it runs out"
                return Revocation(confirmed=False, until=until, detail=detail)
            return Revocation(confirmed=False, detail=f"serial {serial} has run out")
        await house.publisher.publish()
        if house.terminate:
            named = {"REMIT_HANDLE": lease.handle, "REMIT_SERIAL": str(serial)}
            named |= {"REMIT_TASK": lease.task}
            await run_command(house.terminate, b"", self._terminate_seconds, named)
        if house.probe is None:
            detail = f"serial {serial} is on the list; no probe is configured to ask the target"
            return Revocation(confirmed=False, detail=detail)
        await self._rehearse(house.probe)
        await self._confirm(house.probe, serial, place)
        return Revocation(confirmed=True, detail=f"the target refuses serial {serial}")

    _terminate_seconds = 5.0

    async def census(self, leases: Sequence[Lease]) -> Census:
        """Say what was signed, has not run out, and is not on the list that is in place.

        Raises:
            BrokerError: the list is not in place, or the target cannot be reached.
        """
        del leases
        if self._house.publisher is None:
            return Census(alive=self._house.book.alive(unrevoked=False), complete=False)
        await self._ready()
        return Census(alive=self._house.book.alive(), complete=True)

    async def close(self) -> None:  # noqa: B027 - a subclass has nothing to close either
        """Nothing is open."""

    async def _ready(self) -> None:
        if self._house.publisher is None:
            return
        await self._house.publisher.ensure()
        if self._house.probe is None:
            return
        if self._rehearsed:
            await self._house.probe.reach()
        await self._rehearse(self._house.probe)

    async def _rehearse(self, probe: Probe) -> None:
        """See once a run that the target takes our certificates, and heeds our list."""
        async with self._rehearsing:
            if self._rehearsed or self._house.publisher is None:
                return
            ours, book = f"{self._house.installation}-rehearsal-", self._house.book
            for left in book.alive():
                if left.startswith(ours):  # of a run that was killed while it rehearsed
                    end = self._probe_until()
                    await asyncio.to_thread(book.revoke, left, self.serial(left), end)
            handle = f"{ours}{secrets.token_hex(10)}"
            serial, until = self.serial(handle), self._probe_until()
            await asyncio.to_thread(book.mint, handle, serial, until)
            try:
                if not await probe.accepts(serial, until):
                    raise BrokerError(
                        "the target refuses the probe's certificate though it is not revoked: "
                        "look at `probe`, and at which authority the target trusts"
                    )
            finally:
                await asyncio.to_thread(book.revoke, handle, serial, until)
            await self._house.publisher.publish()
            await self._refused(probe, serial)
            self._rehearsed = True

    async def _confirm(self, probe: Probe, serial: int, place: int) -> None:
        """Ask the target after a list was put in place; those that wait together ask once.

        A list is put in place whole and only grows by what is revoked, so a target that refuses
        the newest serial has read a list with all of theirs on.
        """
        self._waited += 1
        mine = self._waited
        self._waiting[mine] = (place, serial)
        try:
            async with self._asking:
                if self._answered >= mine:
                    return
                covering = self._waited
                _, newest = max(self._waiting.values())
                await self._refused(probe, newest)
                self._answered = covering
        finally:
            del self._waiting[mine]

    async def _refused(self, probe: Probe, serial: int) -> None:
        """Return when the target refuses a serial, and goes on refusing it while it settles.

        Raises:
            BrokerError: it does not, or cannot be asked.
        """
        end = time.monotonic() + probe.seconds + probe.settle_seconds
        since: float | None = None
        while since is None or time.monotonic() < since + probe.settle_seconds:
            if not await probe.accepts(serial, self._probe_until()):
                since = time.monotonic() if since is None else since
                if probe.settle_seconds == 0:
                    return
            elif time.monotonic() > end:
                raise BrokerError(
                    f"the target takes serial {serial} though it is on the list: "
                    "see that it reads the list"
                )
            else:
                since = None
            await asyncio.sleep(_PAUSE_SECONDS)

    def _probe_until(self) -> int:
        return int((self._house.clock() + timedelta(seconds=PROBE_SECONDS)).timestamp())
