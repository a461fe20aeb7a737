"""What the credentials room asks of a target that mints, and of the book that keeps leases."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import aiohttp
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from remit.credentials.sealed_keys import SealedKeys
from remit.model.call import Call
from remit.model.errors import ConfigError
from remit.model.lease import Credential, Lease, LeaseScope


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a target can do for us, said honestly; evidence and ``remit lease show`` repeat it.

    ``revocation``: ``immediate`` where the target takes a credential back, ``at_expiry`` where it
    can only let it run out, ``never`` where the credential is a long-lived key that was not minted
    for the lease: the lease ends by nobody being given the key any more, and the key lives on.
    ``confirms``: the target can be *asked* whether the credential still works. ``lists``: the
    target can be asked for every credential of ours, even one whose mint was never answered.
    ``prepares``: the broker waits for :attr:`Order.durable` itself, having asked the target for all
    that comes to nothing unless it is asked for one thing more.
    """

    revocation: Literal["immediate", "at_expiry", "never"]
    confirms: bool
    lists: bool
    prepares: bool = False


async def _durable() -> None:
    """It is durable already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One credential asked of a broker.

    ``grant`` is what the operator bound to the upstream, its references to arguments filled in:
    each broker documents its keys. ``workload`` is the acting agent's SPIFFE ID, ``on_behalf_of``
    the person. ``call`` is None for a lease of a whole task. ``ours``: nobody but Remit itself will
    use the credential, no program of others. ``expires_at`` of the lease is the latest that the
    credential may live. ``durable`` returns once the lease's row is on disk, and
    raises an error to be let through where it cannot be, or the lease ended: nothing may have come to be at the target by then.
    """

    lease: Lease
    workload: str
    on_behalf_of: str
    purpose: str = field(repr=False)
    grant: Mapping[str, Any] = field(default_factory=dict)
    call: Call | None = None
    ours: bool = False
    durable: Callable[[], Coroutine[Any, Any, None]] = field(default=_durable, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """How a revocation went.

    ``confirmed``: the target, asked afterwards, no longer accepts the credential. ``until`` is set
    where the credential lives on until then whatever we do (aware UTC): the lease stays
    ``settling``, and is asked about again after it. ``detail`` is said to people.
    """

    confirmed: bool
    until: datetime | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """What a target said is alive: the handles of our credentials.

    ``complete``: it listed every credential of this installation; otherwise it could be asked only
    about the leases it was given, and ``unasked`` names those that it cannot be asked about.
    ``standing`` says of each long-lived key, by name, why it stands whatever the leases do.
    """

    alive: frozenset[str]
    complete: bool
    unasked: frozenset[str] = frozenset()
    standing: Mapping[str, str] = field(default_factory=dict)


class Broker(Protocol):
    """Mints and revokes at one target. One file each; the conformance suite holds them all."""

    @property
    def traits(self) -> Traits:
        """What the target can do."""
        ...

    def check(self, grant: Mapping[str, Any]) -> None:
        """Look at a binding's grant when the configuration is read.

        Raises:
            ConfigError: an unknown key, a wrong type, or a grant that this target cannot express.
        """
        ...

    async def issue(self, order: Order) -> Credential:
        """Mint a credential that can be found again by ``order.lease.handle``.

        Where the target chooses the name, the answer's ``memo`` (public) or ``keep`` (secret, kept
        sealed) is what :meth:`revoke` needs; it is durable before the call acts.

        Raises:
            NotMintedError: the target answered, and certainly minted nothing.
            EvidenceError: ``order.durable`` raised it, and nothing was minted.
            BrokerError: the target failed. Something may have been minted all the same, even later.
        """
        ...

    async def revoke(self, lease: Lease, keep: str | None) -> Revocation:
        """Take back what the lease names, and ask the target; absent is not an error.

        ``keep`` is what the mint asked to be kept, where it is known. Safe to repeat.

        Raises:
            BrokerError: the target failed; the sweep will ask again.
        """
        ...

    async def census(self, leases: Sequence[Lease]) -> Census:
        """Ask the target what is alive, of these leases and, where it lists, of all of ours.

        Raises:
            BrokerError: the target could not be asked.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a broker saw at its target, in words. ``stops``: no lease can be minted, or ended."""

    said: str
    stops: bool = False


@runtime_checkable
class Surveyor(Protocol):
    """A broker that can say, beyond whether its target answers, what widens every lease there."""

    async def survey(self) -> Sequence[Finding]:
        """Ask the target what its account lacks and what everybody may do, worst first.

        Raises:
            BrokerError: the target could not be asked.
        """
        ...


class Signer(Protocol):
    """Signs a JWT with the authority's key, whose JWKS the target trusts."""

    @property
    def issuer(self) -> str:
        """The ``iss`` that the JWKS is published under."""
        ...

    def sign_jwt(self, claims: Mapping[str, Any], *, typ: str = "JWT") -> str:
        """Return a compact JWS; ``iss`` is added."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a broker may use of the house: never a global, never the environment by itself.

    ``installation`` is the prefix of every handle of this installation's leases, for
    :meth:`Broker.census`. ``path`` makes a path of the configuration absolute. ``sealed`` are the
    long-lived keys that the owner sealed. ``open_key`` opens a key on P-256 that is kept elsewhere, by
    the setting that names it and its URI; it signs, and its signing may block: do it on a thread.
    """

    http: aiohttp.ClientSession
    clock: Callable[[], datetime]
    signer: Signer
    installation: str
    state: Path
    path: Callable[[str], Path]
    sealed: SealedKeys | None = None
    open_key: Callable[[str, str], EllipticCurvePrivateKey] | None = None

    def kept_key(self, where: str, uri: str) -> EllipticCurvePrivateKey:
        """Return the key that a URI names.

        Raises:
            ConfigError: it cannot be had; ``where`` names the setting.
        """
        if self.open_key is None:
            raise ConfigError(f"{where}: no key can be kept elsewhere here")
        return self.open_key(where, uri)


class BrokerFactory(Protocol):
    """What an entry point of the group ``remit.credential_brokers`` names: a broker's class."""

    def __call__(self, name: str, options: Mapping[str, Any], surroundings: Surroundings) -> Broker:
        """Make a broker from its table of the configuration, without contacting the target.

        Raises:
            ConfigError: an option is unknown, missing or makes no sense; it names the table.
        """
        ...


class LeaseStore(Protocol):
    """The lease book's pages."""

    def put(self, lease: Lease) -> None:
        """Stage a lease's present state; durable at the next barrier."""
        ...

    async def get(self, lease_id: str) -> Lease | None:
        """Return one lease."""
        ...

    async def unsettled(self) -> Sequence[Lease]:
        """Return every lease that may still have a live credential, oldest first."""
        ...

    async def unexpired(self, now: datetime) -> Sequence[Lease]:
        """Return every lease, settled ones too, whose credential could be alive by its expiry."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """How one upstream gets its credentials: from which broker, for how much, for how long.

    ``grant`` may refer to the call and its task: ``{args.repo}``, ``{task.id}``,
    ``{task.on_behalf_of}``; arguments only where the scope is one call. ``ours``: what has the
    credential is Remit itself.
    """

    name: str
    broker: Broker
    scope: LeaseScope = LeaseScope.CALL
    seconds: int = 300
    grant: Mapping[str, Any] = field(default_factory=dict)
    ours: bool = False
